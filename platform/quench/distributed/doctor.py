"""What every node of a cluster says of itself: one actor on each, asked before a long run."""

from __future__ import annotations

import hashlib
import platform
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import quench
from quench.datasets import Dataset, Split
from quench.errors import UserError, one_line
from quench.provenance import provenance

_PATIENCE = 60.0
"""seconds for an answer: a process has to start there first, and a share that hangs must not hold up the rest"""


class Failure(str):
    """In place of an answer: the one line that says why there is none."""


class Silence(Failure):
    """There is nobody to answer."""


class Witnesses:
    """An actor on every node that is alive, whatever else runs there.

    Answers are by node, `address (id)`; one that is silent is told of once, and not asked again.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {
            f"{node['NodeManagerAddress']} ({node['NodeID'][-6:]})": node for node in ray.nodes() if node["Alive"]
        }
        """as Ray describes them"""
        actor = ray.remote(num_cpus=0)(_Witness)
        self._actors: dict[str, Any] = {
            name: actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                Path(node["RayletSocketName"]).parent
            )
            for name, node in self.nodes.items()
        }

    def versions(self) -> Mapping[str, dict[str, str] | Failure]:
        """Of Python and of the packages that results depend on, as `versions` has them here."""
        return self._ask("versions")

    def storage(self, storage: Path) -> Mapping[str, str | Failure]:
        """Whether each node reads what is written here, and the other way round; OSError if here is nothing to write.

        A failure says what went wrong, an answer nothing.
        """
        place = storage.resolve() / f".doctor-{uuid.uuid4().hex}"
        place.mkdir(parents=True)
        try:
            asked = place / "asked"
            asked.write_text(place.name)
            answers = self._ask("storage", asked)
            for node, answer in answers.items():
                if not isinstance(answer, Failure) and not _says(place / answer, place.name):
                    answers[node] = Failure("what it writes there is not seen here")
            return answers
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def cuda(self) -> Mapping[str, int | Failure]:
        """On how many GPUs torch can compute, on the nodes that Ray says have some."""
        return self._ask("cuda", only={name for name, node in self.nodes.items() if node["Resources"].get("GPU")})

    def images(self, data: Dataset) -> Mapping[str, str | Failure]:
        """How many images a trial would find there, and their digest."""
        return self._ask("images", data, patience=600)  # they may have to be decoded first

    def disk(self) -> Mapping[str, float | Failure]:
        """The free share of the disk that holds Ray's logs and spilled objects."""
        return self._ask("disk")

    def skew(self) -> Mapping[str, float | Failure]:
        """Seconds between each node's clock and ours, less what the way there and back may explain."""
        answers: dict[str, float | Failure] = {}
        for name in self.nodes:
            before = time.time()
            there = self._ask("clock", only={name}).get(name, Silence())
            answers[name] = there if isinstance(there, Failure) else max(before - there, there - time.time(), 0.0)
        return answers

    def _ask(
        self, question: str, *given: Any, only: set[str] | None = None, patience: float = _PATIENCE
    ) -> dict[str, Any]:
        asked = {
            name: getattr(actor, question).remote(*given)
            for name, actor in self._actors.items()
            if only is None or name in only
        }
        if asked:
            ray.wait(list(asked.values()), num_returns=len(asked), timeout=patience)
        answers = {name: _answer(reference, patience) for name, reference in asked.items()}
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for name in [name for name, answer in answers.items() if isinstance(answer, Silence)]:
            del self._actors[name]
            if self.nodes[name]["NodeID"] not in alive:  # an idle node that has been taken down fails nobody
                del answers[name]
        return answers


def _says(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text() == text


def _answer(reference: Any, patience: float) -> Any:
    try:
        return ray.get(reference, timeout=0.1)
    except GetTimeoutError:
        return Silence(f"no answer within {patience:.0f} s")
    except RayTaskError as error:
        return Failure(one_line(error.cause))
    except RayError as error:  # of many lines, of which the last has the reason
        return Silence(str(error).strip().splitlines()[-1].strip())


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on; of quench its files too, which one version may not fix."""
    digest = hashlib.sha256()
    package = Path(quench.__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    found = {"python": platform.python_version(), **provenance()["versions"]}
    return found | {"quench": f"{found['quench']}, files {digest.hexdigest()[:8]}"}


def require_shared(storage: Path) -> None:
    """Raise `UserError` unless every node that is alive reads and writes the folder as this process does."""
    try:
        answers = Witnesses().storage(storage)
    except OSError as error:
        raise UserError(f"--storage {storage}: {one_line(error)}") from None
    for node, answer in answers.items():
        if isinstance(answer, Failure):
            raise UserError(
                f"--storage {storage}: must be one folder that every node reads and writes, but on {node}: {answer}; "
                "`quench doctor` looks at all of them"
            )


class _Witness:
    """On its node. What goes wrong is raised, and told as a failure."""

    def __init__(self, session: Path) -> None:
        self._session = session

    def versions(self) -> dict[str, str]:
        return versions()

    def storage(self, asked: Path) -> str:
        node = ray.get_runtime_context().get_node_id()
        asked.with_name(node).write_text(asked.read_text())
        return node

    def cuda(self) -> int:
        count = torch.cuda.device_count()
        for device in range(count):
            torch.ones(1, device=f"cuda:{device}").sum().item()
        return count

    def images(self, data: Dataset) -> str:
        train, test, classes = data.splits()
        digest = hashlib.sha256(repr(classes).encode())
        for split in (train, test):
            few = torch.linspace(0, len(split) - 1, 64).long()
            images = split.images if isinstance(split, Split) else split.batch(few).x  # of those in files a sample
            digest.update(images.contiguous().numpy().data)
            digest.update(split.labels.numpy().data)
        return f"{len(train)} training and {len(test)} test images, {digest.hexdigest()[:8]}"

    def disk(self) -> float:
        usage = shutil.disk_usage(self._session)
        return usage.free / usage.total

    def clock(self) -> float:
        return time.time()
