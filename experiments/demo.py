"""What quench is for, in four to five minutes on two CPU cores.

Run:       make demo        (or: quench sweep experiments/demo.py)
Shows:     in both norms and over three seeds, one-step N-FGSM trains models about as robust as PGD-7
           does, in a third of the seconds, while standard training is broken.
Settings:  digits_linf.py and digits_l2.py say why these. A smaller epsilon in each norm shows the
           trade-off where the task is easier. The last trial is data-parallel on two workers: at this
           size that costs time instead of saving it, and shows that it works.
"""

from dataclasses import replace

from digits_l2 import RECIPE as EUCLIDEAN
from digits_linf import RECIPE
from quench import Choice, Sweep

METHODS = Choice("standard", "fgsm_rs", RECIPE.method, "pgd")
EUCLIDEAN_METHODS = Choice("standard", "fgsm_rs", EUCLIDEAN.method, "pgd")
SEEDS = Choice(0, 1, 2)

SWEEP = Sweep(
    space=[
        {"seed": SEEDS, "method": METHODS},
        {"threat": EUCLIDEAN.threat, "seed": SEEDS, "method": EUCLIDEAN_METHODS},
        {"threat.epsilon": 0.1, "method": METHODS},
        {"threat": replace(EUCLIDEAN.threat, epsilon=0.5), "method": EUCLIDEAN_METHODS},
        {"workers": 2},
    ]
)
