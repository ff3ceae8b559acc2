"""What each command takes: its arguments, its help, and what they default to."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from quench import __version__
from quench.options import Parser, concurrent_options, ray_options, storage_options

_OVERRIDES = """
Any field of the recipe can be overridden by its dotted key:
  quench train experiments/digits_linf.py --threat.epsilon 8/255 --method pgd --method.steps 10
`quench train EXPERIMENT --help` lists the fields of that experiment with their values.
"""

_INTERPRET = """
Runs that differ by nothing but their seed are taken together. How they are looked at can be overridden:
  quench interpret PGD N_FGSM STANDARD --images 450 --pictures 10 --seed 0 --inversion.steps 1000
(targeted, synthesis, feature, inversion: .steps, and .step and .radius as shares of the pixel box's diagonal).
"""

_CURVES = """
From the largest epsilon down, each image as far as it is not decided by a larger one. The attack can be changed:
  quench curve latest --epsilons 2/255 4/255 8/255 16/255 --norm linf --attack autoattack --precision bfloat16
"""

_QUESTIONS = """
What is asked can be changed by its dotted key (default: PGD-50-10):
  quench evaluate latest --attack autoattack --precision bfloat16
  quench evaluate latest --attack.steps 100 --threat.epsilon 8/255 --seed 1 --batch-size 500
  quench evaluate --model mine:net --weights net.safetensors --data cifar --threats linf:8/255
Verdicts are kept image by image: asked again, it goes on where it was cut off. `quench compare` reads them.
"""


_SYNC = """
For when the tracking server was away at the end, or a program was killed; written twice, nothing changes:
  quench sync all
  quench sync SWEEP --tracking-uri http://HOST:5000
"""


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The whole program's parser, and each command's by its name."""
    parser = Parser(prog="quench", description="Fast adversarial training, measured against the clock.")
    parser.add_argument("--version", action="version", version=f"quench {__version__}")
    group = parser.add_subparsers(metavar="COMMAND", title="commands")
    storage, ray = storage_options(), ray_options()

    def add(name: str, text: str, *parents: Parser, epilog: str = "") -> argparse.ArgumentParser:
        return group.add_parser(
            name,
            help=text,
            description=text,
            epilog=epilog,
            parents=[*parents, storage],
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _training_commands(add, ray)
    _evaluate_options(add("evaluate", "attack a trained run, or any model, on test images", ray, epilog=_QUESTIONS))
    compare = add("compare", "paired comparison of two evaluated models on the same images")
    compare.add_argument("first", metavar="RUN", help="a run's or model's folder or name, or latest")
    compare.add_argument("second", metavar="RUN", help="the one to compare it with")
    _curve_options(add("curve", "robust accuracy over a grid of epsilon, of one or several runs", epilog=_CURVES))
    _interpret_options(add("interpret", "what runs have learnt to look at, side by side", epilog=_INTERPRET))
    doctor = add("doctor", "look for what would fail a long run on this cluster, before it is begun", ray)
    doctor.add_argument(
        "experiment", type=Path, nargs="?", metavar="EXPERIMENT", help="look for its data too, on every node"
    )
    report = add("report", "one page with the figures and tables of a sweep, and these as files")
    report.add_argument(
        "sweep", metavar="SWEEP", nargs="?", default="latest", help="a sweep's folder or name, or latest"
    )
    sync = add("sync", "have MLflow say what the logs say, wherever it is, whatever it missed", epilog=_SYNC)
    sync.add_argument(
        "name", metavar="RUN|SWEEP|all", nargs="?", default="latest", help="its folder or name, or latest, or all"
    )
    ui = add("ui", "open the MLflow UI on the runs")
    ui.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1; beyond this machine only with a login")
    ui.add_argument("--port", type=int, default=5000, metavar="PORT", help="default: 5000")
    return parser, dict(group.choices)


def _training_commands(add: Callable[..., argparse.ArgumentParser], ray: Parser) -> None:
    train = add("train", "train one recipe, on this machine or on several workers", ray, epilog=_OVERRIDES)
    train.add_argument("experiment", type=Path, metavar="EXPERIMENT", help="a Python file that defines RECIPE")
    train.add_argument("--workers", type=int, metavar="N", help="data-parallel workers; same as the field `workers`")
    sweep = add("sweep", "run the sweep that an experiment file defines", ray, epilog=_OVERRIDES)
    sweep.add_argument(
        "experiment", type=Path, metavar="EXPERIMENT", help="a Python file that defines RECIPE and SWEEP"
    )
    _sweep_options(sweep)
    scaling = add("scaling", "train a recipe on 1, 2, ... workers and say what they buy", ray, epilog=_OVERRIDES)
    scaling.add_argument("experiment", type=Path, metavar="EXPERIMENT", help="a Python file that defines RECIPE")
    scaling.add_argument(
        "--on", type=int, nargs="+", default=[1, 2], metavar="N", help="numbers of workers (default: 1 2)"
    )
    scaling.add_argument("--seeds", type=int, default=1, metavar="N", help="runs for each (default: 1)")
    scaling.set_defaults(concurrent=1, time_budget=None)  # runs side by side would slow each other
    resume = add("resume", "go on with a run or a sweep that was interrupted", ray)
    resume.add_argument("name", metavar="RUN|SWEEP", nargs="?", default="latest", help="its folder or name, or latest")
    concurrent_options(resume)


def _sweep_options(sweep: argparse.ArgumentParser) -> None:
    sweep.add_argument("--trials", type=int, metavar="N", help="configurations to try; of a grid, at most")
    sweep.add_argument("--search", metavar="NAME", help="grid, random, tpe or nsga2")
    sweep.add_argument("--scheduler", metavar="NAME", help="fifo, asha, hyperband, halving, pbt or pb2")
    confirm = "run the best N again on fresh seeds, judged as SWEEP says, or by AutoAttack; 0: none"
    sweep.add_argument("--confirm", type=int, metavar="N", help=confirm)
    sweep.add_argument("--gpus", type=float, metavar="SHARE", help="of a GPU for each trial of one worker: 0.25, say")
    sweep.add_argument(
        "--dry-run", action="store_true", help="only say what would be run, at what cost, how much of it at once"
    )
    concurrent_options(sweep)


def _checkpoint_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--checkpoint", choices=("last", "best"), default="last", help="default: last")


def _curve_options(curve: argparse.ArgumentParser) -> None:
    curve.add_argument("runs", nargs="+", metavar="RUN", help="folders or names, or latest")
    _checkpoint_option(curve)
    curve.add_argument(
        "--epsilons",
        nargs="+",
        default=[],
        metavar="EPSILON",
        help="pixel units, such as 4/255 8/255; default: quarters of the first run's, up to twice that",
    )


def _evaluate_options(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("run", metavar="RUN", nargs="?", help="a run's folder or name, or latest")
    _checkpoint_option(evaluate)
    evaluate.add_argument(
        "--threats",
        nargs="+",
        default=[],
        metavar="NORM:EPSILON",
        help="judge under each of these, and under all of them at once: linf:8/255 l2:128/255 l1:12",
    )
    evaluate.add_argument("--workers", type=int, default=1, metavar="N", help="Ray workers that share the images")
    evaluate.add_argument(
        "--until-halfwidth",
        type=float,
        default=0.0,
        metavar="H",
        help="stop once the robust accuracy is known to +-H (0.01 is one point), at 95 %% confidence",
    )
    evaluate.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="instead of a run: a function that returns a torch.nn.Module from pixels in [0, 1] to logits; "
        "--data names the dataset, as in a recipe",
    )
    evaluate.add_argument("--weights", type=Path, metavar="FILE", help="for it: .safetensors, or a state dict of torch")


def _interpret_options(interpret: argparse.ArgumentParser) -> None:
    interpret.add_argument(
        "runs",
        nargs="+",
        metavar="RUN|SWEEP",
        help="folders or names, or latest; the first is compared with all others",
    )
    _checkpoint_option(interpret)
