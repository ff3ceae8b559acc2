"""What compiling more than the network would gain: an update from noise and images to its loss as a single graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quench.context import Context
from quench.datasets import Batch
from quench.methods import Method
from quench.methods.fgsm_rs import FGSMRS
from quench.methods.n_fgsm import NFGSM
from quench.models import batch_norms
from quench.threat_model import ThreatModel


def passes(
    model: nn.Module, x: Tensor, eta: Tensor, y: Tensor, moved: Tensor, threat: ThreatModel, method: FGSMRS | NFGSM
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient and losses at x + eta, and the logits at the example that one step from there makes.

    `moved` is zero, and what its gradient is asked of. No generator of random numbers can be in a graph.
    """
    for layer in batch_norms(model):
        layer.track_running_stats = False

    def ascent(at: Tensor) -> tuple[Tensor, Tensor]:
        losses = F.cross_entropy(model(at), y, reduction="none", label_smoothing=0.1)
        return losses.sum(), losses

    with torch.no_grad():
        gradient, losses = torch.func.grad(ascent, has_aux=True)(x + eta)
    for layer in batch_norms(model):
        layer.track_running_stats = True
    delta = eta + threat.step(gradient, method.step_ratio)
    delta = threat.project(x, delta) if isinstance(method, FGSMRS) else threat.clamp(x, delta)
    return gradient, losses, model(x + delta + moved)


@dataclass(frozen=True, kw_only=True)
class OneGraph(Method):
    """Another method's update: its numbers, its signals."""

    method: FGSMRS | NFGSM
    passes: Callable[..., tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=lambda: torch.compile(passes, fullgraph=True)
    )

    def losses(self, model: nn.Module, batch: Batch, threat: ThreatModel, context: Context) -> Iterator[Tensor]:
        ratio = self.method.noise_ratio if isinstance(self.method, NFGSM) else 1.0
        eta = context.random_start(threat, batch.x, ratio)
        context._images = torch.zeros_like(batch.x, requires_grad=True)
        gradient, losses, logits = self.passes(model, batch.x, eta, batch.y, context._images, threat, self.method)
        context._note(gradient, losses)
        yield context.loss(logits, batch.y)
