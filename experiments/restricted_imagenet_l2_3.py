"""Restricted ImageNet against l2 3: single-step training in the Euclidean norm, where the paper claims it.

Run:       quench train experiments/restricted_imagenet_l2_3.py --data.root ~/imagenet --workers 8
Data:      ~/imagenet/train/<class>/*.JPEG and ~/imagenet/val/<class>/*.JPEG (ILSVRC 2012), streamed; of its 1,000
           classes the 203 that make nine superclasses (Tsipras et al., arXiv 1805.12152).
Settings:  Goodwin, Brown & Helus (arXiv 2007.03832): ResNet-50, 150 epochs, one step from a random start. Its step,
           1.5 epsilon crafted with running statistics, is that of the laboratory's scripts for CIFAR-10
           (github.com/MIT-AI-Accelerator/robustness_experiments); epsilon, batch, learning rate with drops at
           50 and 100 epochs, and weight decay are the library's that those build on (github.com/MadryLab/robustness).
Compare:   --method pgd --method.steps 7 is the multi-step training that the paper compares with.
Published: no number that could be checked. Not run here yet.
"""

from quench import Recipe, ThreatModel
from quench.datasets.restricted_imagenet import RestrictedImageNet
from quench.geometry.l2 import L2
from quench.methods.fgsm_rs import FGSMRS
from quench.models.resnet import ResNet
from quench.training.budgets.epochs import Epochs
from quench.training.recipe import SGD, Augmentation
from quench.training.schedules.piecewise import Piecewise

RECIPE = Recipe(
    data=RestrictedImageNet(root="~/imagenet"),
    model=ResNet(depth=50),
    threat=ThreatModel(norm=L2(), epsilon=3.0),
    method=FGSMRS(step_ratio=1.5),
    budget=Epochs(150),
    batch_size=256,
    optimizer=SGD(lr=0.1, nesterov=False, weight_decay=1e-4),
    schedule=Piecewise(drops=(1 / 3, 2 / 3), factor=0.1),
    augmentation=Augmentation(flip=True, crop=0.08),
    crafting_statistics="running",
    precision="bfloat16",
)
