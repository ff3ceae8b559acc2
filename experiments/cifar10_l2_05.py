"""CIFAR-10 against l2 128/255: single-step training in the Euclidean norm.

Run:       quench train experiments/cifar10_l2_05.py
Settings:  one step of 0.875 epsilon from a random direction of random length, 200 epochs, lr 0.1
           with drops at 100 and 150: Rice et al. (arXiv 2002.11569), released logs. In short runs
           (--budget.epochs 30 --schedule one_cycle --optimizer.lr 0.2) steps of 1.25 epsilon are in use too.
Published: those logs have 89.5 % clean and 70.8 % under PGD-10 at the best epoch, against 88.7 % and
           71.6 % for PGD-10 training at 5.6 times the seconds an epoch.
Note:      128/255 = 0.502 is what the literature and RobustBench call "l2 0.5".
"""

from dataclasses import replace

from cifar10_linf8 import RECIPE as LINF
from quench import ThreatModel
from quench.geometry.l2 import L2
from quench.methods.fgsm_rs import FGSMRS
from quench.training.budgets.epochs import Epochs
from quench.training.recipe import SGD
from quench.training.schedules.piecewise import Piecewise

RECIPE = replace(
    LINF,
    threat=ThreatModel(norm=L2(), epsilon=128 / 255),
    method=FGSMRS(step_ratio=0.875),
    budget=Epochs(200),
    optimizer=SGD(lr=0.1, weight_decay=5e-4),
    schedule=Piecewise(drops=(0.5, 0.75), factor=0.1),
)
