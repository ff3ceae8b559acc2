"""What is the best that eight train seconds buy on the digits? Methods, steps and rates, by a search of minutes.

    quench sweep experiments/search.py --dry-run
    quench sweep experiments/search.py

Configurations begin with complete runs of one second; the best half is run again for two, of these the best half for
four, and so on. They are chosen on held-out images, and the best three trained again on other seeds, which AutoAttack
judges on the test images.
"""

from dataclasses import replace

from digits_linf import RECIPE as LINF
from quench import Choice, LogUniform, Sweep, Uniform
from quench.sweep import Confirm, Option
from quench.training.budgets.seconds import Seconds
from quench.training.recipe import Augmentation

RECIPE = replace(LINF, budget=Seconds(8.0), augmentation=Augmentation(padding=1), validation=300)
SWEEP = Sweep(
    space={
        "method": Choice(
            Option("fgsm_rs", step_ratio=Uniform(0.75, 1.5)),
            Option("n_fgsm", step_ratio=Uniform(0.75, 1.5), noise_ratio=Uniform(1, 3)),
            "liet",
            "fgsm_pgi",
        ),
        "optimizer.lr": LogUniform(0.02, 0.5),
        "optimizer.weight_decay": LogUniform(5e-5, 5e-3),
        "batch_size": Choice(32, 64, 128),
        "augmentation.padding": Choice(0, 1),
        "label_smoothing": Choice(0.0, 0.1),
    },
    search="tpe",
    trials=40,
    scheduler="halving",
    confirm=Confirm(),
)
