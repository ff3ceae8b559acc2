"""Signs that a robust accuracy does not mean what it says: what was measured, and the threshold that it is beyond.

After Athalye et al. 2018 (arXiv 1802.00420), Carlini et al. 2019 (arXiv 1902.06705) and the checks of
AutoAttack (Croce & Hein 2020, arXiv 2003.01690). A flag proves nothing: it asks for an attack adapted to the model.

The rule for shares of examples: the lower end of the 95 % interval (Wilson's) is above the threshold, and
they are more than one. A single lucky example raises no flag, nor does one too many in a small sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from quench.attacks import Attack, Victim
from quench.attacks.apgd import APGD
from quench.datasets import Examples
from quench.evaluation import probes
from quench.evaluation.intervals import wilson
from quench.randomness import JUDGEMENT, generator
from quench.threat_model import ThreatModel


class Flag(NamedTuple):
    """One reason for doubt."""

    name: str
    reason: str
    """one line: the measured number and the threshold"""


def flags(
    victim: Victim,
    split: Examples,
    threat: ThreatModel,
    standing: Tensor,
    white_box: Attack,
    black_box: Attack,
    seed: int,
    most: int = 256,
) -> tuple[Flag, ...]:
    """Every sign of an unreliable evaluation that the victim shows, in the mode that it is in (see `evaluating`).

    `standing` is `(n,)` bool, on any device: the examples of `split` that stood up to `white_box`
    (`RobustnessReport.robust_bits`). Asked are `most` examples at most, drawn at random from `seed`: those of them
    that stand get `white_box` once more, if it is one that restarts, and in larger and larger balls; and
    `black_box`, after a targeted Auto-PGD: what that finds, an honest model may hide from a few steps of PGD.
    """
    drawn = torch.randperm(len(split), generator=generator(torch.device("cpu"), seed, JUDGEMENT))[:most]
    batch = split.batch(drawn.to(split.labels.device))
    logits = victim.logits(batch.x)
    stood = standing.to(batch.y.device)[batch.index]
    targeted = APGD(loss="targeted" if logits.shape[1] >= 4 else "ce", steps=30)
    left = probes.still_standing(victim, batch, stood, targeted, threat, seed)
    found = [
        random_outputs(logits, victim.logits(batch.x))
        or batch_dependent_outputs(*probes.in_other_company(victim, batch.x)),
        probabilities(logits),
        gradients_in_forward(probes.kept_for_gradients(victim, batch.x)),
        black_box_beats_white_box(left, probes.still_standing(victim, batch, left, black_box, threat, seed)),
    ]
    if getattr(white_box, "restarts", 1) > 1:
        again = probes.still_standing(victim, batch, stood, white_box, threat, seed + 1)
        found.append(more_restarts_help(stood, again))
    right = batch.take(logits.argmax(1) == batch.y)
    if len(right.y):
        gradients, losses = probes.climb(victim, right, threat)
        found += [zero_gradients(gradients), loss_falls(losses)]
    if len(logits.argmax(1).unique()) > 1:  # the accuracy of a constant never falls
        found.append(stands_in_the_whole_box(probes.outgrown(victim, batch, stood, white_box, threat, seed)))
    return tuple(flag for flag in found if flag is not None)


def black_box_beats_white_box(before: Tensor, after: Tensor) -> Flag | None:
    """A search without gradients lowers robust accuracy by more than 0.2 points: gradients mislead, or are too few.

    `(n,)` bool each: which examples stood up to white-box attacks, and to the black-box one after them.
    """
    fell = int((before & ~after).sum())
    return _share("black box beats white box", fell, len(before), 0.002, "fell to the black-box attack alone")


def more_restarts_help(half: Tensor, whole: Tensor) -> Flag | None:
    """The last half of the restarts lowers robust accuracy by more than 0.5 points: the search has not converged.

    `(n,)` bool each: which examples stood up to half of the restarts, and to all of them.
    """
    fell = int((half & ~whole).sum())
    return _share("more restarts help", fell, len(half), 0.005, "fell in the last half of the restarts")


def pgd_far_above_autoattack(pgd: Tensor, autoattack: Tensor) -> Flag | None:
    """PGD leaves robust accuracy more than 3 points above AutoAttack's. `(n,)` bool each, of the same images."""
    count = int(pgd.sum()) - int(autoattack.sum())
    return _share("PGD far above AutoAttack", count, len(pgd), 0.03, "are robust to PGD and not to AutoAttack")


def stands_in_the_whole_box(standing: Tensor) -> Flag | None:
    """Accuracy does not fall to 0, but for 1 %, as epsilon grows until the ball holds every image.

    `(n,)` bool: which examples stood up to that, of those that some image is classified otherwise than.
    """
    what = "stand in a ball that holds every image, also such as the model classifies otherwise"
    return _share("accuracy does not fall to 0", int(standing.sum()), len(standing), 0.01, what)


def zero_gradients(gradients: Tensor) -> Flag | None:
    """Cross-entropy has no gradient, or none that is finite, at more than 5 % of the images.

    `(n, ...)` float: the gradients at images that are classified correctly. A confident model's are small, but not
    0: in float32 that takes a margin of 90 or more between the logits.
    """
    size = gradients.flatten(1).abs().amax(1)
    count = int((~(size > 0) | size.isinf()).sum())
    return _share("zero gradients", count, len(size), 0.05, "have an input gradient of exactly 0, or none")


def loss_falls(losses: Sequence[float]) -> Flag | None:
    """Gradient ascent ends below the highest mean loss on its way by more than 20 % of the loss's range.

    `losses` after 0, 1, 2, ... steps.
    """
    range_ = max(losses) - min(losses)
    fall = max(losses) - losses[-1]
    if fall <= 0.2 * range_ or range_ <= 1e-5 * max(losses):  # the latter is rounding
        return None
    best = losses.index(max(losses))
    means = f"{losses[best]:.4g} after {best} steps of PGD and {losses[-1]:.4g} after {len(losses) - 1}"
    reason = f"mean cross-entropy is {means}: a fall by {fall / range_:.1%} of its range (threshold 20%)"
    return Flag("loss does not rise with steps", reason)


def random_outputs(logits: Tensor, again: Tensor) -> Flag | None:
    """Two forward passes of one batch, `(n, classes)` each, differ by more than 0.01 % of the largest logit."""
    return _differ("random outputs", logits, again, "two forward passes of one batch")


def batch_dependent_outputs(logits: Tensor, others: Tensor) -> Flag | None:
    """So do the logits of the same images, at the same places of batches of one size, in other company."""
    return _differ("batch-dependent outputs", logits, others, "an image's logits in two batches")


def probabilities(logits: Tensor) -> Flag | None:
    """Every row of `(n, classes)` lies in [0, 1] and sums to 1: a softmax's, whose cross-entropy hardly has slopes."""
    off = float((logits.sum(1) - 1).abs().max())
    if off > 1e-3 or float(logits.min()) < 0:
        return None
    return Flag("probabilities for logits", f"outputs are in [0, 1] and sum to 1 within {off:.1g} (threshold 0.001)")


def gradients_in_forward(recorded: int) -> Flag | None:
    """A forward pass keeps `recorded` tensors for a backward pass though asked not to: it optimises something."""
    if recorded == 0:
        return None
    reason = f"{recorded} tensors are kept for gradients within one forward pass (threshold 0)"
    return Flag("gradients in forward", reason)


def _share(name: str, count: int, n: int, threshold: float, what: str) -> Flag | None:
    if count <= 1:
        return None
    share = wilson(count, n)
    if share.low <= threshold:
        return None
    return Flag(name, f"{share} of {n} examples {what} (threshold {threshold:.1%})")


def _differ(name: str, one: Tensor, other: Tensor, what: str) -> Flag | None:
    one, other = one.nan_to_num(), other.nan_to_num()  # the same infinity twice is no difference
    largest = one.abs().amax(1).clamp_min(1e-12)
    share = float(((one - other).abs().amax(1) / largest).max())
    if share <= 1e-4:
        return None
    return Flag(name, f"{what} differ by up to {share:.2%} of the largest logit (threshold 0.01%)")
