"""How long an update of fast adversarial training takes, here and elsewhere, and what each of our settings brings.

    python experiments/benchmarks/training_step.py [--model small_cnn] [--batch N] [--repeats 5] [--out FILE]

Work:     linf 8/255, one step from a random start, the same network, batch and random images of CIFAR-10's size;
          seconds are those of an epoch of a few updates, batches and augmentation included, for each update.
Peers:    fast_adversarial's loop, rebuilt; ART's and torchattacks' own code, if they are installed (`published.py`).
Ladder:   from the published loop to ours, one setting more in each row; then ours on other methods.
Fairness: each contender is a process of its own, and they take turns, so that a slow minute hits all of them, and
          none has what another did to the process.
Bound:    the update's operations over the rate of a large convolution (3x3, 256 channels) in the same precision.
Parts:    of our update's time, by torch's profiler.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import published
import torch
import torch.nn.functional as F
from ladder import L2_HALF, LADDER, MODELS, SPEC, Ours, Theirs
from published import Steps
from step_profile import parts

from quench.catalogue import name_of
from quench.datasets import Split
from quench.durable import write_json
from quench.flops import CountFlops
from quench.methods.n_fgsm import NFGSM
from quench.methods.standard import Standard
from quench.models import Model
from quench.trial import machine


@dataclass(frozen=True)
class Peer:
    loop: Callable[..., Steps]

    def steps(self, network: Model, batch_size: int, split: Split) -> Steps:
        return self.loop(network.build(SPEC, 0), split.images, split.labels, batch_size)


OURS = "+ bfloat16 (quench)"
CONTENDERS: dict[str, Ours | Theirs | Peer] = {
    **({"ART": Peer(published.art)} if find_spec("art") else {}),
    **({"torchattacks": Peer(published.torchattacks)} if find_spec("torchattacks") else {}),
    "fast_adversarial's loop": Peer(published.fast_adversarial),
    **LADDER,
    "quench, N-FGSM": Ours(method=NFGSM()),
    "quench, l2 0.5": Ours(threat=L2_HALF),
    "standard training, the usual loop": Peer(published.standard),
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
        seconds = (time.perf_counter() - started) / updates
        line.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


@contextmanager
def contender(*words: Any) -> Iterator[Callable[[str], Any]]:
    """What answers "turn", by seconds for each update and peak MB, or "parts"."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=contend, args=(*words, there), daemon=True)
    process.start()
    try:

        def ask(what: str) -> Any:
            here.send(what)
            return here.recv()

        ask("turn")  # the first one is slow
        yield ask
    finally:
        here.send("")
        process.join()


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


def table(model: str, batch_size: int, repeats: int, updates: int, threads: int) -> list[dict[str, Any]]:
    """Rows: each contender's milliseconds for an update, its ratio to the published loop's, peak memory."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    memory: dict[str, float] = {}
    for _ in range(repeats):
        for name in CONTENDERS:
            # Begun anew for every turn: a dozen of them at once would not leave the caches and memory alone.
            with contender(name, model, batch_size, updates, threads) as ask:
                for _ in range(2):
                    took, memory[name] = ask("turn")
                    seconds[name].append(took)
            print(f"{model} {name}: {1e3 * seconds[name][-1]:.1f} ms an update", flush=True)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    bounds = {dtype: batch_size * flops(model) / rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    rows: list[dict[str, Any]] = []
    for name, median in medians.items():
        ours = CONTENDERS[name]
        low = isinstance(ours, Ours) and ours.precision == "bfloat16"
        adversarial = "standard" not in name
        share = bounds[torch.bfloat16 if low else torch.float32] / median if adversarial else None
        rows.append(
            {
                "model": model,
                "batch": batch_size,
                "step": name,
                "milliseconds": round(1e3 * median, 1),
                "lowest": round(1e3 * min(seconds[name]), 1),
                "highest": round(1e3 * max(seconds[name]), 1),
                "times faster": round(medians["fast_adversarial's loop"] / median, 2),
                "share of the bound": None if share is None else round(share, 2),
                "peak MB": round(memory[name]),
            }
        )
    return rows


def profiled(rows: list[dict[str, Any]], updates: int, threads: int) -> list[dict[str, Any]]:
    """Of each model: the parts of our update, and how near it comes to the bound."""
    found: list[dict[str, Any]] = []
    for row in (row for row in rows if row["step"] == OURS):
        with contender(OURS, row["model"], row["batch"], updates, threads) as ask:
            shares = {part: round(share, 3) for part, share in ask("parts").items()}
        found.append({"model": row["model"], "parts": shares, "share of the bound": row["share of the bound"]})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, help="default: 128 for small_cnn, 32 for preact_resnet")
    parser.add_argument("--updates", type=int, default=4, help="in a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    packages = {"torch": "torch", "adversarial-robustness-toolbox": "art", "torchattacks": "torchattacks"}
    about = {
        **machine(torch.device("cpu")),
        "threads": asked.threads,
        **{package: version(package) for package, module in packages.items() if find_spec(module)},
        "rates": {str(dtype): round(rate(dtype) / 1e9) for dtype in (torch.float32, torch.bfloat16)},
        "threat": str(Ours().threat),
        "method": name_of(Ours().method),
        "n": 2 * asked.repeats,
        "seed": 0,
    }
    print(json.dumps(about))
    how = (asked.repeats, asked.updates, asked.threads)
    rows = [row for model in asked.model for row in table(model, asked.batch or MODELS[model][1], *how)]
    result = {"rows": rows, "profile": profiled(rows, asked.updates, asked.threads)}
    for row in (*result["rows"], *result["profile"]):
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if asked.out:
        write_json(asked.out, {"machine": about, **result})


if __name__ == "__main__":
    main()
