"""Catastrophic overfitting, and what a guard makes of it.

Run:       quench sweep experiments/overfitting.py     (30 trials; about ten minutes on two CPU cores)
Shows:     zero-start FGSM learns for some 15 epochs and then, within a few, becomes robust to nothing but
           itself: accuracy on its own attacks goes to 100 %, under PGD to 0. Only recorded, stopped, or
           rolled back to healthy weights with a smaller step or with noise before the step.
           notebooks/overfitting.ipynb draws it.
Settings:  digits enlarged to 16x16, a narrow PreActResNet and a constant learning rate. Over 8x8 images,
           small plain networks or with smaller epsilons nothing collapses; without the warm-up of epsilon
           it does so in the first epoch, before there is anything to lose. Zero-start FGSM is written
           as N-FGSM without noise, so that noise is there to be added.
Control:   N-FGSM, the same otherwise, does not collapse within these 30 epochs; FGSM-RS does in one of five.
"""

from quench import Choice, Sweep, ThreatModel
from quench.attacks.pgd import PGD
from quench.datasets.digits import Digits
from quench.geometry.linf import Linf
from quench.methods.fgsm_rs import FGSMRS
from quench.methods.n_fgsm import NFGSM
from quench.models.preact_resnet import PreActResNet
from quench.training.budgets.epochs import Epochs
from quench.training.overfitting import Guard
from quench.training.recipe import SGD, Recipe
from quench.training.schedules.piecewise import Piecewise

FGSM = NFGSM(noise_ratio=0.0)

RECIPE = Recipe(
    data=Digits(size=16),
    model=PreActResNet(width=8),
    threat=ThreatModel(norm=Linf(), epsilon=0.25),
    method=FGSM,
    budget=Epochs(30),
    batch_size=64,
    optimizer=SGD(lr=0.1),
    schedule=Piecewise(drops=()),
    epsilon_warmup=0.25,
    guard=Guard(every=9),
    validation=300,
    probe=PGD(steps=10),
    evaluation=PGD(steps=20),
)

SEEDS = Choice(0, 1, 2, 3, 4)
SWEEP = Sweep(
    space=[
        {"seed": SEEDS, "guard.action": Choice("record", "stop", "rollback")},
        {"seed": SEEDS, "guard.action": "rollback", "guard.remedy": "more_noise"},
        {"seed": SEEDS, "method": Choice(NFGSM(noise_ratio=2.0), FGSMRS())},
    ]
)
