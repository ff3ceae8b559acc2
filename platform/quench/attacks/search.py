"""Searches on batches that stay full: whoever is fooled leaves at once, and the next in the queue takes the place.

A search is written for a batch of examples that are each at a point of their own; `Search` keeps the
batch full with those that still stand. An example's random numbers depend on the seed, its place in
the split and the round, so neither the batch nor the number of workers has a part in its verdict.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Generator, Tensor

from quench.attacks import Victim
from quench.datasets import Batch
from quench.randomness import JUDGEMENT, generator
from quench.threat_model import ThreatModel

_CPU = torch.device("cpu")
State = dict[str, Tensor]
"""what a search remembers of each example: tensors `(N, ...)`"""


@dataclass
class Slots:
    """The examples in the batch, each with what the search knows of it."""

    x: Tensor
    """(N, C, H, W) the images to be attacked"""
    y: Tensor
    """(N,) int64 their labels"""
    index: Tensor
    """(N,) int64 their places in the split"""
    position: Tensor
    """(N,) int64 their places in the batch that the search was called with"""
    round: Tensor
    """(N,) int64 the restart, or the rank of the targeted class"""
    looks: Tensor
    """(N,) int64 looks done in this round"""
    state: State
    """the search's own"""

    def take(self, which: Tensor) -> Slots:
        """Those of a mask or an index."""
        taken: dict[str, Any] = {field.name: getattr(self, field.name)[which] for field in fields(self)[:-1]}
        return replace(self, **taken, state={key: value[which] for key, value in self.state.items()})

    def put(self, places: Tensor, fresh: Slots) -> None:
        """`fresh` in the given places, whose examples are done with."""
        for field in fields(self)[:-1]:
            getattr(self, field.name)[places] = getattr(fresh, field.name)
        for key, value in self.state.items():
            value[places] = fresh.state[key]

    def drawn(self, seed: int, draw: Callable[[Generator, Tensor], Tensor]) -> Tensor:
        """`draw(rng, image)` for each example, `(1, ...)` each, together `(N, ...)`: the same on any device."""
        places = zip(self.index.tolist(), self.round.tolist(), self.x.cpu().split(1), strict=True)
        drawn = [draw(generator(_CPU, seed, JUDGEMENT, index, number), image) for index, number, image in places]
        return torch.cat(drawn).to(self.x.device)


class Search(ABC):
    """Rounds of looks at each example: `begin` a round, `look` until something is found or the round is over."""

    @abstractmethod
    def rounds(self, threat: ThreatModel) -> int:
        """How often an example that stands is searched anew."""

    @abstractmethod
    def looks(self, threat: ThreatModel) -> int:
        """How many images a round looks at."""

    @abstractmethod
    def begin(self, victim: Victim, slots: Slots, threat: ThreatModel, seed: int) -> State:
        """The state of examples whose round begins; `slots.state` is not there yet."""

    @abstractmethod
    def look(self, victim: Victim, slots: Slots, threat: ThreatModel) -> tuple[Tensor, Tensor]:
        """The images looked at `(N, C, H, W)`, and whether they seem to fool the model `(N,)`; moves the state on."""

    def __call__(self, victim: Victim, batch: Batch, threat: ThreatModel, seed: int) -> Tensor:
        """A `Stage`: for each example the first image found that fools the model in float32, else the image itself.

        An example that stands goes to the back of the queue for its next round: the batch is full until
        the last looks of the last round.
        """
        found = batch.x.clone()
        if len(found) == 0:
            return found
        queue = deque((position, 0) for position in range(len(batch.y)))
        slots = self._joining(
            victim, batch, threat, seed, [queue.popleft() for _ in range(min(len(queue), victim.batch_size))]
        )
        while len(slots.y):
            tried, hit = self.look(victim, slots, threat)
            slots.looks += 1
            over = slots.looks == self.looks(threat)
            leaving = over.clone()
            # Low precision may have missed what the last look found.
            asked = (hit if victim.precision == "float32" else hit | over).nonzero().flatten()
            if len(asked):
                doubted = Batch(slots.x[asked], slots.y[asked], slots.index[asked])
                sure = asked[victim.fooled(doubted, tried[asked], threat)]
                found[slots.position[sure]] = tried[sure]
                leaving[sure], over[sure] = True, False
            again = (slots.position[over].tolist(), slots.round[over].tolist())
            queue.extend((p, r + 1) for p, r in zip(*again, strict=True) if r + 1 < self.rounds(threat))
            free = leaving.nonzero().flatten()
            if len(free) == 0:
                continue
            joining = [queue.popleft() for _ in range(min(len(queue), len(free)))]
            if joining:
                slots.put(free[: len(joining)], self._joining(victim, batch, threat, seed, joining))
            if len(joining) < len(free):
                leaving[free[: len(joining)]] = False
                slots = slots.take(~leaving)
        return found

    def _joining(
        self, victim: Victim, batch: Batch, threat: ThreatModel, seed: int, who: Iterable[tuple[int, int]]
    ) -> Slots:
        position, number = torch.tensor(list(who), dtype=torch.int64, device=batch.y.device).view(-1, 2).unbind(1)
        x, y, index = batch.x[position], batch.y[position], batch.index[position]
        slots = Slots(x, y, index, position, number.clone(), torch.zeros_like(number), {})
        slots.state = self.begin(victim, slots, threat, seed)
        return slots
