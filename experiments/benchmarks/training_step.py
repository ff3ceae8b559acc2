"""How long an update of fast adversarial training takes, here and elsewhere, and what each of our settings brings.

    python experiments/benchmarks/training_step.py [--model small_cnn] [--batch N] [--repeats 5] [--out FILE]

Work:     linf 8/255, one step from a random start, the same network, batch and random images of CIFAR-10's size;
          seconds are those of an epoch of a few updates, batches and augmentation included, for each update.
Peers:    fast_adversarial's loop, rebuilt, in float32, in bfloat16, and with that and memory kept as ours keeps it;
          ART's and torchattacks' own code, if they are installed (`published.py`).
Ladder:   from the published loop to ours, one setting more in each row (`ladder.py`); then ours on other methods.
Fairness: a turn is a process of its own, of which the first epoch is left out and the mean of the next two counts.
          Contenders take turns, forwards and then backwards, and are compared turn by turn: the ratio's median, least
          and most. Peak memory is the process's.
Bound:    our update's operations over the rate of a large convolution (3x3, 256 channels) in the same precision; and
          what shares of our update's time its parts have, by torch's profiler, in one epoch.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import published
import torch
import torch.nn.functional as F
from ladder import L2_HALF, LADDER, MODELS, SPEC, Ours, Theirs
from measuring import about, peak_mb, spread, taking_turns
from published import Steps
from step_profile import parts

from quench.allocator import keep_freed_memory
from quench.catalogue import name_of
from quench.datasets import Split
from quench.durable import write_json
from quench.flops import CountFlops
from quench.methods.n_fgsm import NFGSM
from quench.methods.standard import Standard
from quench.models import Model


@dataclass(frozen=True)
class Peer:
    loop: Callable[..., Steps]
    keep: bool = False

    def steps(self, network: Model, batch_size: int, split: Split) -> Steps:
        if self.keep:
            keep_freed_memory()
        return self.loop(network.build(SPEC, 0), split.images, split.labels, batch_size)


PUBLISHED, OURS = "fast_adversarial's loop", "+ bfloat16 (quench)"
HALF = partial(published.fast_adversarial, half=True)
CONTENDERS: dict[str, Ours | Theirs | Peer] = {
    **({"ART": Peer(published.art)} if find_spec("art") else {}),
    **({"torchattacks": Peer(published.torchattacks)} if find_spec("torchattacks") else {}),
    f"{PUBLISHED}, bfloat16": Peer(HALF),
    f"{PUBLISHED}, bfloat16, freed memory kept": Peer(HALF, keep=True),
    PUBLISHED: Peer(published.fast_adversarial),
    **LADDER,
    "quench, N-FGSM": Ours(method=NFGSM()),
    "quench, l2 0.5": Ours(threat=L2_HALF),
    "standard training, the usual loop": Peer(published.standard),
    "standard training, quench in float32": Ours(method=Standard(), precision="float32"),
    "standard training, quench": Ours(method=Standard()),
}


def contend(name: str, model: str, batch_size: int, updates: int, threads: int, line: Connection) -> None:
    """In a process of its own: an epoch, and what it took or which parts it has, whenever it is asked for."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network, _ = MODELS[model]
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (updates * batch_size, 3, 32, 32), dtype=torch.uint8, generator=rng)
    split = Split(images, torch.randint(0, 10, (len(images),), generator=rng))
    epoch = CONTENDERS[name].steps(network, batch_size, split)
    while asked := line.recv():
        if asked == "parts":
            line.send(parts(epoch))
            continue
        started = time.perf_counter()
        epoch()
        line.send(((time.perf_counter() - started) / updates, peak_mb()))


@contextmanager
def contender(*words: Any) -> Iterator[Callable[[str], Any]]:
    """What answers "epoch", by seconds for each update and peak MB, or "parts"; the first, slow epoch is over."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=contend, args=(*words, there), daemon=True)
    process.start()
    there.close()  # if it dies, nobody is to wait for it

    def ask(what: str) -> Any:
        here.send(what)
        return here.recv()

    try:
        ask("epoch")
        yield ask
        here.send("")
    finally:
        process.join(10)
        process.kill()


def table(model: str, batch_size: int, repeats: int, *how: int) -> list[dict[str, Any]]:
    """Rows: each contender's milliseconds for an update, its ratio to the published loop's, peak memory."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    memory = dict.fromkeys(CONTENDERS, 0)
    for _, name in taking_turns(CONTENDERS, repeats):
        # Begun anew for every turn: a dozen of them at once would not leave the caches and memory alone.
        with contender(name, model, batch_size, *how) as ask:
            epochs = [ask("epoch") for _ in range(2)]
        seconds[name].append(statistics.mean(took for took, _ in epochs))
        memory[name] = max(memory[name], *(peak for _, peak in epochs))
        print(f"{model} {name}: {1e3 * seconds[name][-1]:.1f} ms an update", flush=True)
    return [
        {
            "model": model,
            "batch": batch_size,
            "step": name,
            "ms": spread([1e3 * each for each in own]),
            "times faster": spread([peer / each for peer, each in zip(seconds[PUBLISHED], own, strict=True)]),
            "peak MB": memory[name],
        }
        for name, own in seconds.items()
    ]


def bounds(rows: list[dict[str, Any]], rates: dict[torch.dtype, float], *how: int) -> list[dict[str, Any]]:
    """Of each model: how near our update comes to what its operations take at least, and where its time goes."""
    found: list[dict[str, Any]] = []
    for row in (row for row in rows if row["step"] == OURS):
        work = row["batch"] * flops(row["model"])
        least = {
            f"{str(dtype).removeprefix('torch.')}: at least, ms": 1e3 * work / rate for dtype, rate in rates.items()
        }
        with contender(OURS, row["model"], row["batch"], *how) as ask:
            shares = {part: round(share, 3) for part, share in ask("parts").items()}
        reached = 1e3 * work / rates[torch.bfloat16] / row["ms"]["median"]
        found.append(
            {
                "model": row["model"],
                "batch": row["batch"],
                "GFLOP": round(work / 1e9, 1),
                **{key: round(value, 1) for key, value in least.items()},
                "share of the bound": round(reached, 3),
                "parts": shares,
            }
        )
    return found


def flops(model: str) -> float:
    """Of our update, for each image."""
    network, _ = MODELS[model]
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with CountFlops() as count:
        Ours(precision="float32", keep=False).steps(network, 2, Split(images, torch.zeros(2, dtype=torch.int64)))()
    return count.total / 2


def rate(dtype: torch.dtype) -> float:
    """Operations a second in a convolution that the caches hold, faster than products of matrices; the best of many."""
    x = torch.rand(32, 256, 16, 16).to(dtype).contiguous(memory_format=torch.channels_last)
    w = torch.rand(256, 256, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
    best = float("inf")
    for _ in range(60):
        started = time.perf_counter()
        y = F.conv2d(x, w, padding=1)
        best = min(best, time.perf_counter() - started)
    return 2 * y.numel() * w[0].numel() / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, help="default: 128 for small_cnn, 32 for preact_resnet")
    parser.add_argument("--updates", type=int, default=4, help="in an epoch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rates = {dtype: rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    machine = about(
        *("adversarial-robustness-toolbox", "torchattacks"),
        threat=str(Ours().threat),
        method=name_of(Ours().method),
        updates=asked.updates,
        n=asked.repeats,
        **{f"GFLOP/s in {str(dtype).removeprefix('torch.')}": round(each / 1e9) for dtype, each in rates.items()},
    )
    print(json.dumps(machine))
    how = (asked.updates, asked.threads)
    rows = [row for model in asked.model for row in table(model, asked.batch or MODELS[model][1], asked.repeats, *how)]
    result = {"rows": rows, "bounds": bounds(rows, rates, *how)}
    for row in (*result["rows"], *result["bounds"]):
        print(json.dumps(row))
    if asked.out:
        write_json(asked.out, {"machine": machine, **result})


if __name__ == "__main__":
    main()
