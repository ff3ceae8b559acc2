"""What is the best that a minute of one CPU buys, of 10,000 CIFAR-10 images against linf 8/255?

    quench sweep experiments/cifar10_minute.py --concurrent 2
    quench sweep experiments/cifar10_minute.py --budget.seconds 300 --trials 16 --concurrent 2

Configurations begin with complete runs of a quarter of the time; the best half is run again for twice as long, and so
on. They are chosen on 1,000 held-out images, and the best three trained again on other seeds, for which PGD-50-10 and
1,000 test images speak. `experiments/benchmarks/time_to_accuracy.py` puts what is found beside fast_adversarial's loop.
Your own copy:  --data.of.path ~/data/cifar-10-python.tar.gz, or --data.of image_folder --data.of.root DIR.
"""

from quench import Choice, LogUniform, Sweep, ThreatModel, Uniform
from quench.attacks.pgd import PGD, PGD_50_10
from quench.datasets.cifar import Cifar
from quench.datasets.subset import Subset
from quench.geometry.linf import Linf
from quench.methods.n_fgsm import NFGSM
from quench.models.small_cnn import SmallCNN
from quench.sweep import Confirm, Option
from quench.training.budgets.seconds import Seconds
from quench.training.recipe import Augmentation, Recipe, Selection
from quench.training.schedules.one_cycle import OneCycle

RECIPE = Recipe(
    data=Subset(of=Cifar(), train=11_000, test=1000),
    model=SmallCNN(),
    threat=ThreatModel(norm=Linf(), epsilon=8 / 255),
    method=NFGSM(),
    budget=Seconds(60.0),
    schedule=OneCycle(peak=0.3),
    augmentation=Augmentation(padding=2, flip=True),
    precision="bfloat16",
    validation=1000,
    probe=PGD(steps=5),
    selection=Selection(attack=PGD(steps=10), images=1000),
    evaluation=PGD(steps=10),
    reliability=0,
)
SWEEP = Sweep(
    space={
        "method": Choice(
            Option("fgsm_rs", step_ratio=Uniform(0.75, 1.5)),
            Option("n_fgsm", step_ratio=Uniform(0.75, 1.5), noise_ratio=Uniform(1, 2.5)),
        ),
        "model.widths": Choice(
            (16, 32, 64, 128), (16, 32, 64, 128, 128), (32, 64, 128, 256), (32, 64, 128, 256, 256), (64, 128, 128)
        ),
        "optimizer.lr": LogUniform(0.03, 0.5),
        "optimizer.weight_decay": LogUniform(1e-4, 3e-3),
        "batch_size": Choice(32, 64, 128),
        "augmentation.padding": Choice(0, 1, 2),
        "label_smoothing": Choice(0.0, 0.1, 0.2),
        "schedule.peak": Choice(0.1, 0.3, 0.5),
        "epsilon_warmup": Choice(0.0, 0.3),
    },
    search="tpe",
    trials=32,
    scheduler="halving",
    grace=0.25,
    confirm=Confirm(finalists=3, evaluation=PGD_50_10),
)
