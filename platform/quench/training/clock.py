"""The train clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from quench.ranks import Ranks


class Clock:
    """Counts what training needs: data, crafting, updates, compilation, watching over it; and nothing else."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.workers = 1
        """that work while it runs"""
        self._started: float | None = None
        self._before = 0.0
        self._earlier = (0.0, 0.0)  # train seconds and worker seconds of earlier attempts

    @property
    def seconds(self) -> float:
        """The reading, once everything that was asked of the device is done."""
        if self._started is not None and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.on_host

    @property
    def on_host(self) -> float:
        """The reading now, with whatever the device has still to do."""
        return self._before if self._started is None else self._before + time.perf_counter() - self._started

    @property
    def gpu_seconds(self) -> float:
        """The reading times the workers, whose number may have been another in earlier attempts."""
        seconds, worker_seconds = self._earlier
        return worker_seconds + (self.seconds - seconds) * self.workers

    def go_on(self, seconds: float, gpu_seconds: float) -> None:
        """From the readings of an earlier attempt."""
        self._before, self._earlier = seconds, (seconds, gpu_seconds)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count while the block runs."""
        self._started = time.perf_counter()
        try:
            yield
        finally:
            self._before, self._started = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While it is running: do not count while the block runs."""
        self._before, self._started = self.seconds, None
        try:
            yield
        finally:
            self._started = time.perf_counter()


class SharedReading:
    """A clock as all workers see it: their mean, read about every `interval` seconds and kept in between.

    What follows from it (learning rate, the end of the run) is then the same on all of them, for when it is read
    again follows from its readings. The device is not stopped for it: a reading waits for what had been asked of it
    at the one before, so that it is late by what is asked between two readings at most.
    """

    def __init__(self, clock: Clock, ranks: Ranks, interval: float = 0.1) -> None:
        self._clock, self._ranks, self._interval = clock, ranks, interval
        self._reading: float | None = None
        self._questions, self._left = 1, 0  # from one reading to the next, and still to come before it
        self._mark: torch.cuda.Event | None = None

    def __call__(self) -> float:
        if self._reading is None or self._left == 0:
            self._keep_up()
            before, self._reading = self._reading, self._ranks.mean(self._clock.on_host, self._clock.device)
            if before is not None:
                fitting = self._interval * self._questions / max(self._reading - before, 1e-9)
                self._questions = int(min(max(fitting, 1), 2 * self._questions))  # a moment may mislead
            self._left = self._questions
        self._left -= 1
        return self._reading

    def _keep_up(self) -> None:
        if self._clock.device.type == "cuda":
            if self._mark is not None:
                self._mark.synchronize()
            self._mark = torch.cuda.Event()
            self._mark.record(torch.cuda.current_stream(self._clock.device))
