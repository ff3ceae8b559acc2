"""Images decoded by Ray Data, on any CPU of the cluster, while the workers train."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from quench.datasets.streamed import BLOCK, Read
from quench.errors import UserError

AHEAD = 16
"""blocks that are decoded, or in the making, before a worker needs them"""


def decoded_by_ray(reads: Iterable[Read]) -> Iterator[np.ndarray]:
    """All images of `reads`, in order and in pieces. It takes a CPU that no worker or trial has."""
    import ray.data
    from ray.exceptions import RayError

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=AHEAD * BLOCK)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # As bytes, which Ray Data handles as they are: of objects it makes a text first.
    tasks: list[Any] = [{"read": pickle.dumps(read)} for read in reads]
    if not tasks:
        return
    decoded: Any = _decoded
    images = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(decoded, batch_size=1)
    try:
        for piece in images.iter_batches(batch_size=None):
            yield np.asarray(piece["images"])
    except RayError as error:
        raise _cause(error) from None


def _decoded(batch: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    read: Read = pickle.loads(batch["read"][0])
    for images in read.images():
        yield {"images": images}


def _cause(error: BaseException) -> BaseException:
    """The user's mistake that a task met with, if that is what it was."""
    cause = getattr(error, "cause", None) or error.__cause__
    if isinstance(cause, UserError):
        return UserError(str(cause).splitlines()[0])  # the rest is Ray's advice on trying again
    return error if cause is None else _cause(cause)
