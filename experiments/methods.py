"""Every method in l-infinity and l2, at equal epochs and at equal seconds.

Run:       quench sweep experiments/methods.py       (168 trials; about half an hour on two CPU cores)
Data:      scikit-learn's digits, as in digits_linf.py and digits_l2.py, which say why these epsilons.
Settings:  every method's defaults, which are its paper's for CIFAR-10 at linf 8/255, and N-FGSM's
           noise of 3 in l2 (digits_l2.py). Nothing else is tuned for the digits. In epochs, a batch of
           Free is four updates; in seconds, it is what it costs.
Judged by: PGD-50-10 on the 450 test images.
"""

from dataclasses import replace

from digits_l2 import RECIPE as EUCLIDEAN
from digits_linf import RECIPE as LINF
from quench import Choice, Sweep
from quench.attacks.pgd import PGD
from quench.training.budgets.seconds import Seconds

OTHERS = (
    "standard",
    "fgsm",
    "fgsm_rs",
    "free",
    "pgd",
    "trades",
    "grad_align",
    "sora",
    "liet",
    "nuat",
    "fgsm_pgi",
    "aaer",
    "elle",
)

RECIPE = replace(LINF, evaluation=PGD(steps=50, restarts=10))
BUDGETS = Choice(RECIPE.budget, Seconds(5.0))
SEEDS = Choice(0, 1, 2)

SWEEP = Sweep(
    space=[
        {"seed": SEEDS, "budget": BUDGETS, "threat": like.threat, "method": Choice(like.method, *OTHERS)}
        for like in (LINF, EUCLIDEAN)
    ]
)
