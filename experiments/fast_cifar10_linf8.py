"""CIFAR-10 against l-infinity 8/255 in little time: large batches, N-FGSM, 15 epochs, made for one GPU.

Run:       quench train experiments/fast_cifar10_linf8.py
Settings:  PreActResNet-18, batch 512, SGD lr 0 -> 0.4 -> 0 (0.2 times the root of the larger batch), label smoothing
           0.1, a moving average of the weights over some 200 updates, crops and flips; compiled, in bfloat16.
Published: FGSM-RS in 15 epochs 45 % under PGD-50-10, in 6 minutes (arXiv 2001.03994).
Others:    experiments/benchmarks/gpu_time_to.py has the candidates that this one is compared with.
"""

from dataclasses import replace

from cifar10_linf8 import RECIPE as LINF
from quench.training.budgets.epochs import Epochs
from quench.training.recipe import SGD
from quench.training.schedules.one_cycle import OneCycle

RECIPE = replace(
    LINF,
    budget=Epochs(15),
    batch_size=512,
    optimizer=SGD(lr=0.2, weight_decay=5e-4, scaling="sqrt"),
    schedule=OneCycle(peak=0.4),
    label_smoothing=0.1,
    averaging=0.995,
    compile=True,
)
