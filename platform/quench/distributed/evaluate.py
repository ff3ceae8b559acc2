"""One evaluation on many workers: each takes the next examples when it is done with the last."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import ray
from torch import Tensor

from quench.evaluation import Examination, Judged
from quench.subjects import Subject
from quench.trial import best_device


def judged_on_workers(subject: Subject, asked: Examination, todo: Tensor, workers: int, gpu: bool) -> Iterator[Judged]:
    """`Examination.part` of the examples `todo` `(n,)`, as they come in from `workers` Ray actors.

    An actor that dies is started again, up to three times, and is given its part again.
    """
    needs: dict[str, Any] = {"num_gpus": 1} if gpu else {"num_cpus": 1}
    actor = ray.remote(**needs, max_restarts=3, max_task_retries=3)(_Judge)
    judges: deque[Any] = deque(actor.remote(subject, asked) for _ in range(workers))
    parts = deque(asked.parts(todo))
    running: dict[Any, Any] = {}
    while parts or running:
        while parts and judges:
            judge = judges.popleft()
            running[judge.judge.remote(parts.popleft())] = judge
        (done, *_), _ = ray.wait(list(running))
        judges.append(running.pop(done))
        yield ray.get(done)


class _Judge:
    """An actor: the model on its device, ready for examples."""

    def __init__(self, subject: Subject, asked: Examination) -> None:
        self._loaded, self._asked = subject.load(best_device()), asked

    def judge(self, index: Tensor) -> Judged:
        return self._asked.part(*self._loaded, index)
