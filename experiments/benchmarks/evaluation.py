"""How long the same evaluation takes here and elsewhere: PGD-50-10 and AutoAttack, linf 8/255, paired in one run.

    python experiments/benchmarks/evaluation.py [--data FOLDER] [--images 100] [--repeats 3] [--threads 1]

Model:    the small CNN, trained here with N-FGSM for the epochs asked for, on an image folder of CIFAR-10 or, without
          one, on the digits at epsilon 0.15.
Peers:    the loops people use, each as it is published but for the device:
          - fast_adversarial: Wong et al.'s evaluate_pgd, whose attack passes make weight gradients too;
          - torchattacks: its PGD, input gradients only, every image to the last step of each restart;
          - foolbox: LinfPGD of the package, if it is installed; pyautoattack: the authors' AutoAttack.
          All get all images, in plain memory order, as they are used; what is wrong without attack is only here, and by
          pyautoattack, left out.
Times:    wall-clock seconds of one process; contenders take turns, forwards and then backwards, and are compared turn
          by turn: median, least and most.
Verdicts: robust accuracy beside every time, and on how many images a contender's differ from the first one's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import about, spread, taking_turns
from torch import Tensor, nn

from quench.attacks import Attack, Precision, Victim
from quench.attacks.autoattack import AutoAttack
from quench.attacks.pgd import PGD_50_10
from quench.attacks.pyautoattack import PyAutoAttack
from quench.datasets import Batch
from quench.datasets.digits import Digits
from quench.datasets.image_folder import ImageFolder
from quench.durable import write_json
from quench.evaluation import evaluating, judge
from quench.geometry.linf import Linf
from quench.methods.n_fgsm import NFGSM
from quench.models.small_cnn import SmallCNN
from quench.threat_model import ThreatModel
from quench.training.budgets.epochs import Epochs
from quench.training.loop import fit
from quench.training.recipe import Augmentation, Recipe
from quench.training.state import TrainState

STEPS, RESTARTS, RATIO = PGD_50_10.steps, PGD_50_10.restarts, 0.25
OURS = "quench bfloat16"
Contender = Callable[[nn.Module, Batch, ThreatModel, int], Tensor]
"""(model, images, threat model, seed) -> which stand, (N,) bool"""


def ours(attack: Attack, precision: Precision) -> Contender:
    def run(model: nn.Module, batch: Batch, threat: ThreatModel, seed: int) -> Tensor:
        return judge(Victim(model, len(batch.y), precision), batch, {"attack": attack}, threat, seed)["attack"]

    return run


def plain(contender: Contender) -> Contender:
    """With model and images in torch's own memory order."""

    def run(model: nn.Module, batch: Batch, threat: ThreatModel, seed: int) -> Tensor:
        model = deepcopy(model).to(memory_format=torch.contiguous_format)
        return contender(model, Batch(batch.x.contiguous(), batch.y, batch.index), threat, seed)

    return run


def fast_adversarial(model: nn.Module, batch: Batch, threat: ThreatModel, seed: int) -> Tensor:
    """`evaluate_pgd` of arXiv 2001.03994: all images in every pass, those already fooled not moved; the restart of the
    highest loss counts."""
    torch.manual_seed(seed)
    x, y, epsilon = batch.x, batch.y, threat.epsilon
    highest, worst = torch.zeros(len(y)), torch.zeros_like(x)
    for _ in range(RESTARTS):
        delta = torch.empty_like(x).uniform_(-epsilon, epsilon)
        delta = ((x + delta).clamp(0, 1) - x).requires_grad_()
        for _ in range(STEPS):
            output = model(x + delta)
            index = (output.argmax(1) == y).nonzero().flatten()
            if len(index) == 0:
                break
            F.cross_entropy(output, y).backward()
            gradient = delta.grad.detach()
            moved = (delta[index] + RATIO * epsilon * gradient[index].sign()).clamp(-epsilon, epsilon)
            delta.data[index] = (x[index] + moved).clamp(0, 1).detach() - x[index]
            delta.grad.zero_()
        loss = F.cross_entropy(model(x + delta), y, reduction="none").detach()
        worst[loss >= highest] = delta.detach()[loss >= highest]
        highest = torch.maximum(highest, loss)
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        return model(x + worst).argmax(1) == y


def torchattacks(model: nn.Module, batch: Batch, threat: ThreatModel, seed: int) -> Tensor:
    """The package's PGD, once for each restart; an image stands that no restart's last step fools."""
    torch.manual_seed(seed)
    x, y, epsilon = batch.x, batch.y, threat.epsilon
    standing = torch.ones_like(y, dtype=torch.bool)
    for _ in range(RESTARTS):
        adversarial = (x + torch.empty_like(x).uniform_(-epsilon, epsilon)).clamp(0, 1)
        for _ in range(STEPS):
            adversarial.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(adversarial), y), adversarial)
            adversarial = adversarial.detach() + RATIO * epsilon * gradient.sign()
            adversarial = (x + (adversarial - x).clamp(-epsilon, epsilon)).clamp(0, 1).detach()
        with torch.no_grad():
            standing &= model(adversarial).argmax(1) == y
    return standing


def foolbox(model: nn.Module, batch: Batch, threat: ThreatModel, seed: int) -> Tensor:
    """LinfPGD of the package, once for each restart."""
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfPGD

    torch.manual_seed(seed)
    standing = torch.ones_like(batch.y, dtype=torch.bool)
    for _ in range(RESTARTS):
        attack = LinfPGD(steps=STEPS, rel_stepsize=RATIO)
        _, _, fooled = attack(PyTorchModel(model, bounds=(0, 1)), batch.x, batch.y, epsilons=threat.epsilon)
        standing &= ~fooled
    return standing


def trained(data: str | None, epochs: int) -> tuple[nn.Module, Batch, ThreatModel]:
    """A model in eval mode, its test images, and what it was trained against."""
    recipe = Recipe(
        data=ImageFolder(root=data) if data else Digits(),
        model=SmallCNN(),
        threat=ThreatModel(norm=Linf(), epsilon=8 / 255 if data else 0.15),
        method=NFGSM(),
        budget=Epochs(epochs),
        augmentation=Augmentation(padding=2, flip=True) if data else Augmentation(),
        precision="bfloat16",
        validation=200,
        probe=replace(PGD_50_10, steps=1, restarts=1),
    )
    loaded = recipe.data.load(recipe.validation)
    state = TrainState.initial(recipe, loaded.spec(), torch.device("cpu"))
    for report in fit(state, recipe, loaded):
        print(f"epoch {report.epoch}: clean {report.clean_accuracy:.1%}, {report.train_seconds:.0f} s", flush=True)
    return state.judged, loaded.test.batch(torch.arange(len(loaded.test))), recipe.threat


def measure(
    title: str, contenders: dict[str, Contender], repeats: int, model: nn.Module, batch: Batch, threat: ThreatModel
) -> list[dict[str, object]]:
    """Rows of a table: seconds, how many times those of crafting in bfloat16, robust accuracy, disagreements."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    verdicts: dict[str, Tensor] = {}
    for turn, name in taking_turns(contenders, repeats):
        started = time.perf_counter()
        verdicts[name] = contenders[name](model, batch, threat, 0)
        seconds[name].append(time.perf_counter() - started)
        print(f"{title} {name}, turn {turn + 1}: {seconds[name][-1]:.1f} s", flush=True)
    first = verdicts[next(iter(contenders))]
    return [
        {
            "evaluation": title,
            "by": name,
            "seconds": spread(own),
            f"times {OURS}": spread([each / ours for each, ours in zip(own, seconds[OURS], strict=True)]),
            "robust": round(int(verdicts[name].sum()) / len(batch.y), 4),
            "differs from the first on": int((verdicts[name] != first).sum()),
        }
        for name, own in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an image folder of CIFAR-10; the digits without one")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model, everything, threat = trained(asked.data, asked.epochs)
    with evaluating(model):
        batch = everything.take(torch.arange(asked.images))
        clean = int((Victim(model).logits(batch.x).argmax(1) == batch.y).sum())
        pgd: dict[str, Contender] = {
            "quench float32": ours(PGD_50_10, "float32"),
            OURS: ours(PGD_50_10, "bfloat16"),
            "torchattacks' loop": plain(torchattacks),
            "fast_adversarial's loop": plain(fast_adversarial),
            **({"foolbox": plain(foolbox)} if find_spec("foolbox") else {}),
        }
        autoattack = {
            "quench float32": ours(AutoAttack(), "float32"),
            OURS: ours(AutoAttack(), "bfloat16"),
            "pyautoattack": plain(ours(PyAutoAttack(), "float32")),
        }
        rows = measure("PGD-50-10", pgd, asked.repeats, model, batch, threat)
        rows += measure("AutoAttack", autoattack, asked.repeats, model, batch, threat)
    machine = about(
        *("pyautoattack", "foolbox"),
        data=Path(asked.data).name if asked.data else "digits",
        threat=str(threat),
        images=asked.images,
        clean=round(clean / asked.images, 4),
        n=asked.repeats,
    )
    print(json.dumps(machine))
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if asked.out:
        write_json(asked.out, {"machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
