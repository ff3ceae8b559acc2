"""Images that stay in their files: any number of them, decoded when a batch is asked for.

Which images make up an epoch, in which order, and what each is to look like is decided where they are
trained on; where the bytes are decoded does not matter: a `Read` can be sent to any machine.
"""

from __future__ import annotations

import io
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from quench.datasets import Batch, Examples
from quench.errors import UserError
from quench.ranks import Ranks

BLOCK = 2**25
"""bytes of decoded images that are made, and travel, together"""


class Encoded(ABC):
    """Places of encoded images. Light: it is what travels to wherever they are decoded."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, index: np.ndarray) -> Encoded:
        """The places at `index` `(n,)`."""

    @abstractmethod
    def read(self) -> Iterator[bytes]:
        """Every image as its file has it, in order."""

    @abstractmethod
    def where(self, number: int) -> str:
        """The place of one image, for people."""

    @abstractmethod
    def identity(self) -> Iterator[bytes]:
        """The names of the files, and which of their images these are: the same wherever the folder lies."""

    @abstractmethod
    def shuffled(self, rng: Generator) -> Tensor:
        """All of them `(n,)` in a random order in which they are fast to read."""

    @abstractmethod
    def epoch(self, batches: int, batch_size: int, ranks: Ranks, rng: Generator, most: int) -> list[np.ndarray]:
        """This rank's images of an epoch of so many batches, in a random order that `rng` decides.

        They come in parts that are best read together, of `most` images if that is all the same. One after the
        other the parts are the rank's shares of each batch. Over the ranks no image comes twice.
        """


@dataclass(frozen=True, kw_only=True)
class View:
    """What of an image is seen, and how large."""

    size: int
    """pixels a side"""
    centre: float = 1.0
    """share of the shorter side that is kept, around the centre, where there is no random crop"""
    crop: float = 0.0
    """smallest share of the area that a random crop keeps; 0 for no random crop"""

    def box(self, width: int, height: int, draw: np.ndarray | None) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in pixels of an image of this size; see `crop_boxes` for `draw`, `(4,)`."""
        if draw is None:
            side = self.centre * min(width, height)
            return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2
        left, top, right, bottom = crop_boxes(draw[None], self.crop, width, height)[0].tolist()
        return left, top, right, bottom


def crop_boxes(draws: np.ndarray, least: float, width: int, height: int) -> np.ndarray:
    """Random crops of images of one size, `(n, 4)`: left, top, right, bottom in pixels.

    They have `least` to all of the area, and sides in the ratio 3/4 to 4/3, uniform in its logarithm, anywhere in
    the image (Szegedy et al., arXiv 1409.4842). Where one would be wider or higher than the image it is cut
    to that, not drawn again. `draws` is `(n, 4)` in [0, 1): for area, ratio and the two positions.
    """
    area, ratio, across, down = draws.astype(np.float64).T
    area, ratio = width * height * (least + (1 - least) * area), (4 / 3) ** (2 * ratio - 1)
    w, h = np.minimum(np.sqrt(area * ratio), width), np.minimum(np.sqrt(area / ratio), height)
    left, top = across * (width - w), down * (height - h)
    return np.stack([left, top, left + w, top + h], 1)


def decode(data: bytes, view: View | None, draw: np.ndarray | None = None) -> np.ndarray:
    """`(H, W, 3)` uint8 of an image file; without a view, all of it as large as it is."""
    from PIL import Image

    image: Any
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if view is None:
            return np.asarray(_rgb(image))
        left, top, right, bottom = view.box(width, height, draw)
        # A JPEG that is much too large is decoded to a half, a quarter or an eighth, still twice what is wanted.
        enough = 2 * view.size
        image.draft(None, (math.ceil(width * enough / (right - left)), math.ceil(height * enough / (bottom - top))))
        x, y = image.width / width, image.height / height
        box = (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
        return np.asarray(_rgb(image).resize((view.size, view.size), Image.Resampling.BICUBIC, box=box))


def _rgb(image: Any) -> Any:
    """In RGB; grey images of 16 bits, which Pillow would saturate, by their upper 8."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


@dataclass(frozen=True)
class Read:
    """Some images, and how each is to be seen: a task for any process that reaches the files."""

    encoded: Encoded
    view: View
    draws: np.ndarray | None = None
    """(n, 4) in [0, 1): each image's random crop"""

    def images(self, threads: ThreadPoolExecutor | None = None) -> Iterator[np.ndarray]:
        """`(n, size, size, 3)` uint8 in pieces of `BLOCK`. Raises `UserError` for what is no image."""
        each = enumerate(self.encoded.read())
        decoded = map(self._decoded, each) if threads is None else threads.map(self._decoded, each)
        piece: list[np.ndarray] = []
        for image in decoded:
            piece.append(image)
            if len(piece) == per_block(self.view.size):
                yield np.stack(piece)
                piece.clear()
        if piece:
            yield np.stack(piece)

    def _decoded(self, numbered: tuple[int, bytes]) -> np.ndarray:
        number, data = numbered
        try:
            return decode(data, self.view, None if self.draws is None else self.draws[number])
        except Exception as error:  # Pillow's decoders raise what they like
            raise unreadable(self.encoded.where(number), error) from None


def unreadable(where: str, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or re.sub(r" <_io\S+ object at \w+>", "", " ".join(str(error).split()))
    return UserError(f"data.root: {where} cannot be read as an image ({reason})")


def per_block(size: int) -> int:
    """How many images of `size` a side come to a block: few large ones, and no more than a second's work of small."""
    return max(min(BLOCK // (3 * size * size), 1024), 1)


@cache
def threads() -> ThreadPoolExecutor:
    """This process's decoders, one a core: Pillow lets go of the interpreter's lock."""
    return ThreadPoolExecutor()


def decoded_here(reads: Iterable[Read]) -> Iterator[np.ndarray]:
    """All images of `reads`, in order and in pieces, decoded by the threads of this process."""
    for read in reads:
        yield from read.images(threads())


@dataclass(frozen=True)
class Streamed(Examples):
    """Examples in files, of any number and size; nothing of them is kept."""

    encoded: Encoded
    labels: Tensor
    view: View

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.view.size, self.view.size

    def take(self, index: Tensor) -> Streamed:
        return replace(self, encoded=self.encoded.take(index.cpu().numpy()), labels=self.labels[index])

    def shuffled(self, rng: Generator) -> Tensor:
        return self.encoded.shuffled(rng)

    def to(self, device: torch.device) -> Streamed:
        return replace(self, labels=self.labels.to(device))

    def batch(self, index: Tensor) -> Batch:
        pieces = list(decoded_here([Read(self.encoded.take(index.cpu().numpy()), self.view)]))
        images = on_device(
            np.concatenate(pieces) if pieces else np.zeros((0, *self.shape[1:], 3), np.uint8), self.labels.device
        )
        return Batch(images.float().div_(255), self.labels[index], index)

    def identity(self) -> Iterator[bytes]:
        yield repr(self.view).encode()
        yield from self.encoded.identity()


def on_device(images: np.ndarray, device: torch.device) -> Tensor:
    """`(n, H, W, 3)` as a uint8 tensor `(n, 3, H, W)`."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
