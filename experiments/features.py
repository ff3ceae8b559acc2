"""Which features a model learns: trained on clean images, with one step, with seven.

Run:       quench sweep experiments/features.py      (12 trials; about ten minutes on two CPU cores)
           quench interpret SWEEP                    (its name; or latest)
Shows:     loss gradients, images made for a class, inverted representations, side by side, and what they
           come to in numbers: whether one step keeps the features that seven steps give, which is the second claim
           of Goodwin, Brown & Helus (arXiv 2007.03832). notebooks/features.ipynb tells it.
Settings:  digits enlarged to 16x16, in l2 as in the paper.
"""

from dataclasses import replace

from digits_l2 import RECIPE as DIGITS
from quench import Choice, Sweep, ThreatModel
from quench.datasets.digits import Digits
from quench.geometry.l2 import L2

RECIPE = replace(DIGITS, data=Digits(size=16), threat=ThreatModel(norm=L2(), epsilon=1.4))
SWEEP = Sweep(space={"method": Choice("pgd", RECIPE.method, "fgsm_rs", "standard"), "seed": Choice(0, 1, 2)})
