"""Which features a model learns: from clean images, from one step, from seven.

Run:       quench sweep experiments/features.py                (12 trials; about two minutes on two CPU cores)
           quench interpret SWEEP --images 450                 (the sweep's name; some ten minutes)
Shows:     loss gradients, made images and inverted representations side by side, and in numbers how much one step
           keeps of the features that seven steps give: the second claim of Goodwin, Brown & Helus
           (arXiv 2007.03832). notebooks/features.ipynb tells it.
Settings:  l2 as in the paper, and digits enlarged to 16x16, where single steps are harder put to it than on 8x8
           and pictures show more. PGD-7 comes first, because the first model is what others are compared with.
           FGSM-RS in l2 is the paper's method; N-FGSM's noise is that of digits_l2.py. Nothing is tuned.
Why 1.4:   twice the 0.7 of 8x8, as every pixel has become four. PGD-7 then has 61 % robust accuracy under PGD-20,
           standard training 0 %; at 2.0 PGD-7 is down to 37 %.
"""

from dataclasses import replace

from digits_l2 import RECIPE as DIGITS
from quench import Choice, Sweep, ThreatModel
from quench.datasets.digits import Digits
from quench.geometry.l2 import L2

RECIPE = replace(DIGITS, data=Digits(size=16), threat=ThreatModel(norm=L2(), epsilon=1.4))
SWEEP = Sweep(space={"method": Choice("pgd", RECIPE.method, "fgsm_rs", "standard"), "seed": Choice(0, 1, 2)})
