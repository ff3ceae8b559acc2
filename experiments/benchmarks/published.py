"""Fast adversarial training as it is written elsewhere, to be timed: each a `Steps` over the same images.

All get their images from a DataLoader of this process, whole batches only, by `PerImage`; they normalise within the
model, as our networks do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Steps = Callable[[], None]
"""an epoch over the images"""
EPSILON, ALPHA = 8 / 255, 10 / 255


class PerImage(Dataset[tuple[Tensor, int]]):
    """Images `(N, H, W, C)` uint8, each cropped, mirrored and made a tensor on its own, as by torchvision."""

    def __init__(self, images: np.ndarray, labels: list[int], padding: int) -> None:
        self.images, self.labels, self.padding = images, labels, padding

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        most = self.padding
        image = np.pad(self.images[i], ((most, most), (most, most), (0, 0)))
        top, left = torch.randint(0, 2 * most + 1, (2,)).tolist()
        image = image[top : top + self.images.shape[1], left : left + self.images.shape[2]]
        if torch.rand(1).item() < 0.5:
            image = image[:, ::-1]
        return torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous().float().div(255), self.labels[i]


def loader(images: Tensor, labels: Tensor, batch_size: int, padding: int = 4) -> DataLoader[tuple[Tensor, int]]:
    """Batches of `images` `(N, C, H, W)` uint8, in memory order and by code that are usual elsewhere."""
    dataset = PerImage(images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist(), padding)
    return DataLoader(dataset, batch_size, shuffle=True, drop_last=True)


def fast_adversarial(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    learning_rate: Callable[[], float | None] = lambda: 0.01,
    weight_decay: float = 5e-4,
    padding: int = 4,
    half: bool = False,
    input_only: bool = False,
    batches: Iterable[tuple[Tensor, Tensor]] | None = None,
    fetch: bool = True,
) -> Steps:
    """FGSM-RS of arXiv 2001.03994: noise channel by channel, weight gradients in the attack's pass too, two passes in
    train mode, loss and accuracy fetched after every update. It ends where there is no learning rate any more.

    Published for a GPU in float16 by apex; here in float32, or `half`: both passes under bfloat16 autocast. In it, for
    a ladder: gradients of the input only in the attack's pass, other batches, and nothing fetched."""
    optimizer = sgd(model, weight_decay)
    batches, channels = batches or loader(images, labels, batch_size, padding), images.shape[1]

    def loss_and_output(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = model(x)
            return F.cross_entropy(output, y), output

    def epoch() -> None:
        model.train()
        loss_sum = right = 0.0
        for x, y in batches:
            if (rate := learning_rate()) is None:
                return
            optimizer.param_groups[0]["lr"] = rate
            delta = torch.zeros_like(x)
            for channel in range(channels):
                delta[:, channel].uniform_(-EPSILON, EPSILON)
            delta = torch.max(torch.min(delta, 1 - x), 0 - x).requires_grad_()
            loss, _ = loss_and_output(x + delta, y)
            if input_only:
                (delta.grad,) = torch.autograd.grad(loss, delta)
            else:
                loss.backward()
            assert delta.grad is not None
            moved = (delta + ALPHA * delta.grad.sign()).clamp(-EPSILON, EPSILON)
            delta = torch.max(torch.min(moved, 1 - x), 0 - x).detach()
            loss, output = loss_and_output(x + delta, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if fetch:
                loss_sum += loss.item() * len(y)
                right += (output.argmax(1) == y).sum().item()

    return epoch


def torchattacks(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Steps:
    """The package's FFGSM (the same single step), made in eval mode, in the loop of its own demonstrations."""
    from torchattacks import FFGSM

    optimizer, attack = sgd(model), FFGSM(model, eps=EPSILON, alpha=ALPHA)
    batches = loader(images, labels, batch_size)

    def epoch() -> None:
        model.train()
        for x, y in batches:
            loss = F.cross_entropy(model(attack(x, y)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def art(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Steps:
    """The package's AdversarialTrainerFBFPyTorch ("fast is better than free"): perturbations are made in numpy, and
    both passes in eval mode, which its own gradients leave the model in."""
    from art.defences.trainer import AdversarialTrainerFBFPyTorch
    from art.estimators.classification import PyTorchClassifier

    _, *shape = images.shape
    optimizer, loss = sgd(model), nn.CrossEntropyLoss()
    classes = int(labels.max()) + 1
    classifier = PyTorchClassifier(
        Whole(model), loss, tuple(shape), classes, optimizer, clip_values=(0.0, 1.0), device_type="cpu"
    )
    trainer = AdversarialTrainerFBFPyTorch(classifier, eps=EPSILON)
    batches = loader(images, labels, batch_size)

    def epoch() -> None:
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))  # all at once is how it takes them
        trainer.fit(x.numpy(), F.one_hot(y, classes).float().numpy(), batch_size=batch_size, nb_epochs=1)

    return epoch


class Whole(nn.Module):
    """Of a Sequential ART would take each layer's output for the model's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def standard(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Steps:
    """Without an adversary."""
    optimizer = sgd(model)
    batches = loader(images, labels, batch_size)

    def epoch() -> None:
        model.train()
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def sgd(model: nn.Module, weight_decay: float = 5e-4) -> torch.optim.SGD:
    """As fast_adversarial has it."""
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=weight_decay)
