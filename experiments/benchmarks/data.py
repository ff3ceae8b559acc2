"""How fast training images come, and what memory it takes: in memory, streamed by Ray Data, by a torch DataLoader.

    python experiments/benchmarks/data.py --data FOLDER [--images 20000] [--size 32] [--repeats 3] [--cpus 2]

Images:   the first so many of FOLDER/train, in a random order, cut and resized to --size; batches of 128, with flips.
Sources:  - in memory: decoded before, as small data is;
          - Ray Data: each epoch decoded by Ray tasks on --cpus CPUs, as recipes that stream are;
          - threads: each epoch decoded by threads of the training process, as those do without Ray;
          - DataLoader: torch's, with --cpus worker processes and the same decoder.
Times:    seconds until an epoch's last batch was there, nothing being trained; contenders take turns, after an epoch
          that does not count, so that a slow minute hits all of them.
Memory:   of a process with all its descendants, Ray's among them, shared pages once (PSS): the highest seen in an epoch
          of Ray Data over an eighth of the images, listed 1, 4 and 16 times, at --memory-size, each in a process of
          its own. The reader rests 250 ms after each batch, so that the decoders are held up by it, not it by
          them; "waited" is the share of its time that it did not rest. Beside it, what the images would take in
          memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from measuring import about
from torch.utils.data import DataLoader, Dataset

from quench import Recipe, ThreatModel
from quench.beside import repeatedly
from quench.datasets import Split
from quench.datasets.image_folder import ImageFolder
from quench.datasets.streamed import Read, Streamed, decode, decoded_here, on_device
from quench.distributed import cluster
from quench.distributed.stream import decoded_by_ray
from quench.durable import write_json
from quench.geometry.linf import Linf
from quench.methods.standard import Standard
from quench.models.small_cnn import SmallCNN
from quench.ranks import Ranks
from quench.training.recipe import Augmentation
from quench.training.streaming import feed_of

BATCH, TIMES, PAUSE = 128, (1, 4, 16), 0.25
Source = Callable[[int], Iterable[object]]
"""epoch -> its batches"""


class Decoded(Dataset[tuple[torch.Tensor, int]]):
    """For a DataLoader: the same files, decoded in its workers."""

    def __init__(self, files: Streamed) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        (data,) = self.files.encoded.take(np.array([index])).read()
        image = torch.from_numpy(decode(data, self.files.view).copy()).permute(2, 0, 1)
        image = image.flip(-1) if torch.rand(()) < 0.5 else image
        return image.float().div_(255), int(self.files.labels[index])


def folder(data: str, size: int, images: int, times: int = 1) -> Streamed:
    """So many images of the folder, in a random order, all of that `times` times."""
    train, _, _ = ImageFolder(root=data, size=size, stream=True).splits()
    assert isinstance(train, Streamed)
    some = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:images]
    return train.take(some.repeat(times))


RECIPE = Recipe(
    data=ImageFolder(root="-"),
    model=SmallCNN(),
    threat=ThreatModel(norm=Linf(), epsilon=8 / 255),
    method=Standard(),
    batch_size=BATCH,
    augmentation=Augmentation(flip=True),
)
"""of which batches and flips count here"""


def by_ray(files: Streamed) -> Source:
    return lambda epoch: feed_of(files, RECIPE, decoded_by_ray)(epoch, Ranks())


def sources(files: Streamed, cpus: int) -> dict[str, Source]:
    everything = Read(files.encoded, files.view)
    memory = Split(on_device(np.concatenate(list(decoded_here([everything]))), torch.device("cpu")), files.labels)
    loader = DataLoader(Decoded(files), BATCH, shuffle=True, num_workers=cpus, drop_last=True)
    return {
        "in memory": lambda epoch: feed_of(memory, RECIPE)(epoch, Ranks()),
        "Ray Data": by_ray(files),
        "threads": lambda epoch: feed_of(files, RECIPE)(epoch, Ranks()),
        "DataLoader": lambda epoch: loader,
    }


def measure(contenders: dict[str, Source], repeats: int) -> list[dict[str, object]]:
    """Rows of a table: images a second of every turn, their median, and its ratio to the DataLoader's."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, source in contenders.items():
            started = time.perf_counter()
            count = sum(1 for _ in source(turn))
            rate = count * BATCH / (time.perf_counter() - started)
            print(f"{name}, turn {turn}: {rate:.0f} images/s", flush=True)
            if turn > 0:
                rates[name].append(rate)
    medians = {name: statistics.median(of) for name, of in rates.items()}
    return [
        {
            "source": name,
            "images/s": [round(rate) for rate in rates[name]],
            "median": round(medians[name]),
            "times DataLoader": round(medians[name] / medians["DataLoader"], 2),
        }
        for name in contenders
    ]


def memory_of_this_process() -> int:
    """Bytes of it and its descendants, shared pages once."""
    total, parents, alive = 0, {os.getpid()}, True
    processes: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            processes[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # gone
    while alive:
        children = {child for child, parent in processes.items() if parent in parents} - parents
        parents, alive = parents | children, bool(children)
    for process in parents:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total


def peak(files: Streamed) -> tuple[int, float]:
    """The highest memory of an epoch of Ray Data, looked at every second; the share of its time that was no rest."""
    seen = [0]
    count, started = 0, 0.0
    with repeatedly(lambda: seen.append(memory_of_this_process()), 1, "memory"):
        for _ in by_ray(files)(0):
            started = started or time.perf_counter()
            count += 1
            time.sleep(PAUSE)
    waited = 1 - count * PAUSE / (time.perf_counter() - started)
    return max(seen), waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="an image folder")
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--memory-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    parser.add_argument("--times", type=int, help=argparse.SUPPRESS)  # of a listing whose memory is looked at
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.times:
        files = folder(asked.data, asked.memory_size, asked.images // 8, asked.times)
        with cluster.connected("local", asked.cpus):
            print(*peak(files))
        return
    files = folder(asked.data, asked.size, asked.images)
    with cluster.connected("local", asked.cpus):
        rows = measure(sources(files, asked.cpus), asked.repeats)
    memory: list[dict[str, float]] = []
    for times in TIMES:
        words = [sys.executable, *sys.argv, "--times", str(times)]
        seen, waited = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-2:]
        images = times * (len(files) // 8)
        held = images * 3 * asked.memory_size**2
        row = {"times": times, "images": images, "peak MB": int(seen) // 10**6, "in memory MB": held // 10**6}
        memory.append({**row, "waited": round(float(waited), 3)})
        print(memory[-1], flush=True)
    machine = about(
        "ray",
        cpus=asked.cpus,
        data=Path(asked.data).name,
        images=len(files),
        size=asked.size,
        memory_size=asked.memory_size,
    )
    for row in (machine, *rows):
        print(json.dumps(row))
    if asked.out:
        write_json(asked.out, {"machine": machine, "rows": rows, "memory": memory})


if __name__ == "__main__":
    main()
