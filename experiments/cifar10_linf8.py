"""CIFAR-10 against l-infinity 8/255: the field's standard setting, N-FGSM in 30 epochs.

Run:       quench train experiments/cifar10_linf8.py
Your own copy:  --data.path ~/data/cifar-10-python.tar.gz, or a folder of images with
           --data image_folder --data.root DIR (DIR/train/<class>/*.jpg, DIR/test/<class>/*.jpg)
Settings:  de Jorge et al. (arXiv 2202.01181): PreActResNet-18, batch 128, SGD lr 0 -> 0.2 -> 0,
           weight decay 5e-4, noise 2 epsilon, step epsilon. FGSM-RS is --method fgsm_rs (Wong et al.,
           arXiv 2001.03994: step 1.25 epsilon, 15 to 30 epochs).
Published: N-FGSM about 48 % under AutoAttack in 100 epochs with averaging and label smoothing
           (arXiv 2604.22853); FGSM-RS in 15 epochs 45 % under PGD-50-10 (arXiv 2001.03994).
"""

from quench import Recipe, ThreatModel
from quench.datasets.cifar import Cifar
from quench.geometry.linf import Linf
from quench.methods.n_fgsm import NFGSM
from quench.models.preact_resnet import PreActResNet
from quench.training.budgets.epochs import Epochs
from quench.training.recipe import SGD, Augmentation
from quench.training.schedules.one_cycle import OneCycle

RECIPE = Recipe(
    data=Cifar(),
    model=PreActResNet(),
    threat=ThreatModel(norm=Linf(), epsilon=8 / 255),
    method=NFGSM(noise_ratio=2.0, step_ratio=1.0),
    budget=Epochs(30),
    batch_size=128,
    optimizer=SGD(lr=0.2, weight_decay=5e-4),
    schedule=OneCycle(peak=0.5),
    augmentation=Augmentation(padding=4, flip=True),
    precision="bfloat16",
)
