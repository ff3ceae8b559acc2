"""Measurements on one GPU, stage by stage; see gpu.sh.

roofline   what the GPU can do at most, and how near updates come, setting by setting
epoch      train seconds of an epoch of PreActResNet-18, FGSM-RS and N-FGSM
search     candidate recipes for the goals, judged on held-out images
time_to    seconds to 45 % under PGD-50-10 (linf 8/255), 49 % under AutoAttack, 70 % under PGD-50-10 (l2 128/255):
           the search's choice, fresh seeds, test images
tests      python -m pytest -m gpu
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from gpu_setup import Rows
from gpu_speed import METHODS, epoch, roofline
from gpu_time_to import GOALS, search, time_to

REPOSITORY = Path(__file__).parents[2]


def tests(asked: argparse.Namespace) -> None:
    """The test set that needs a GPU, without what the other tests need."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--noconftest", "-rs", "tests/gpu"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr)
    Rows("tests", asked).add(exit_status=done.returncode, summary=(done.stdout.strip().splitlines() or [""])[-1])


STAGES = {stage.__name__: stage for stage in (tests, roofline, epoch, search, time_to)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"{', '.join(STAGES)}; all if none is given")
    parser.add_argument("--data", help="CIFAR-10: the archive, its folder, or a folder of images; made up if not given")
    parser.add_argument("--out", type=Path, default=Path("experiments/results/gpu"))
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="for all stages, in equal shares; what one leaves the others have"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="of updates and epochs"
    )
    parser.add_argument("--goals", nargs="+", choices=list(GOALS), default=list(GOALS))
    parser.add_argument("--candidates", type=int, help="how many of a goal's to search among")
    parser.add_argument("--candidate", help="what time_to takes, whatever the search has found")
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 512, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20, help="that are timed together")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--judged", type=int, default=0, help="test images; all if 0")
    parser.add_argument("--judging-batch", type=int, default=2500)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    small = parser.add_argument_group("to try a stage out")
    small.add_argument("--images", type=int, default=50_000, help="that are made up")
    small.add_argument("--width", type=int, help="of every network")
    small.add_argument("--epochs", type=int, help="of every run")
    small.add_argument("--batch", type=int, help="of every run")
    small.add_argument("--gemm", type=int, default=8192, help="side of the matrices that are multiplied")
    asked = parser.parse_args()
    for stage in asked.stages:
        if stage not in STAGES:
            parser.error(f"there is no stage {stage}; there are {', '.join(STAGES)}")
    if not asked.data and asked.images * 4 // 5 < max(asked.batches):  # a fifth is held out or judged
        parser.error(f"--batches {max(asked.batches)}: must be at most four fifths of --images {asked.images}")
    return asked


def main() -> None:
    """A process for each stage: what one leaves behind on the GPU, or a crash, is no matter to the next."""
    asked = arguments()
    if len(asked.stages) == 1:
        STAGES[asked.stages[0]](asked)
        return
    end, failed = time.monotonic() + 60 * asked.minutes, False
    options = [word for word in sys.argv[1:] if word not in STAGES]
    stages = asked.stages or list(STAGES)
    for number, stage in enumerate(stages):
        share = (end - time.monotonic()) / 60 / (len(stages) - number)
        command = [sys.executable, __file__, stage, *options, f"--minutes={share:.2f}"]
        failed |= subprocess.run(command, check=False).returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
