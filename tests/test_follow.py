from __future__ import annotations

import time
from pathlib import Path

import pytest

from quench.follow import Follower, following
from quench.record import Entry, Record
from quench.training.recipe import Recipe


@pytest.fixture
def records(tmp_path: Path, recipe: Recipe) -> list[Record]:
    return [Record.create(tmp_path / str(i), recipe, experiment="test", configuration="c") for i in range(3)]


class Sink:
    """Remembers what it was given; fails while told to."""

    def __init__(self) -> None:
        self.got: dict[str, list[str]] = {}
        self.broken = False

    def __call__(self, record: Record, entries: list[Entry]) -> None:
        if self.broken:
            raise ConnectionError("down")
        self.got.setdefault(record.directory.name, []).extend(e["status"] for e in entries)


def test_a_sink_that_was_down_gets_everything_once_and_in_order(records: list[Record]) -> None:
    sink = Sink()
    follower = Follower(records, sink)
    for status, broken in (
        ("waiting", False),
        ("running", True),
        ("failed", True),
        ("running", False),
        ("finished", False),
    ):
        sink.broken = broken
        for record in records:
            record.append("status", status=status)
        follower.pump()
        assert bool(follower.failures) == broken
    assert sink.got == {name: ["waiting", "running", "failed", "running", "finished"] for name in "012"}


@pytest.mark.parametrize("bad", [{"0"}, {"0", "1"}])
def test_a_run_that_a_sink_cannot_take_does_not_hold_up_the_others(records: list[Record], bad: set[str]) -> None:
    sink = Sink()

    def picky(record: Record, entries: list[Entry]) -> None:
        if record.directory.name in bad:
            raise ValueError("deleted by hand")
        sink(record, entries)

    follower = Follower(records, picky)
    for record in records:
        record.append("status", status="running")
    follower.pump()
    follower.pump()
    assert sink.got.keys() == {"0", "1", "2"} - bad
    assert {record.directory.name for record in follower.failures} == bad


def test_a_sink_that_is_down_is_tried_twice_a_pump(records: list[Record]) -> None:
    calls: list[str] = []

    def down(record: Record, entries: list[Entry]) -> None:
        calls.append(record.directory.name)
        raise ConnectionError("down")

    for record in records:
        record.append("status", status="running")
    Follower(records, down).pump()
    assert len(calls) == 2


def test_following_hands_on_while_the_block_runs_and_the_rest_at_its_end(records: list[Record]) -> None:
    sink = Sink()
    with following(records, {"sink": sink}, every=0.01):
        records[0].append("status", status="running")
        deadline = time.monotonic() + 10
        while not sink.got and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sink.got == {"0": ["running"]}
    with following(records, {"sink": sink}, every=60):
        records[1].append("status", status="running")
    assert sink.got["1"] == ["running"]
