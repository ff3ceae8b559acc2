"""ImageNet against l-infinity 4/255: the published fast recipe, small images first.

Run:       quench train experiments/imagenet_linf4.py --data.root ~/imagenet --workers 8
Data:      ~/imagenet/train/<class>/*.JPEG and ~/imagenet/val/<class>/*.JPEG (ILSVRC 2012), streamed. Parquet files:
           --data parquet --data.root DIR --data.size 288 --data.centre 0.875
Settings:  Wong et al. (arXiv 2001.03994) and their code: ResNet-50, FGSM from a random start with steps of 1.25
           epsilon, 6 epochs of 128x128 pixels in batches of 512, 6 of 224x224 in batches of 224, 3 of 288x288 in
           batches of 128; learning rate 0 to 0.4 in an epoch, then 0.04, 0.004 and 0.0004 at the end of each
           stage, weight decay 1e-4. Departs from it in the files: they resized the images once to 160 and 352
           pixels, here each is decoded to what is needed. For 2/255: --threat.epsilon 2/255.
Published: 55.6 % clean, 30.2 % under PGD-50 and 26.2 % under AutoAttack (RobustBench, Wong2020Fast). Not run here yet.
"""

from quench import Recipe, ThreatModel
from quench.datasets.image_folder import ImageFolder
from quench.geometry.linf import Linf
from quench.methods.fgsm_rs import FGSMRS
from quench.models.resnet import ResNet
from quench.training.budgets.epochs import Epochs
from quench.training.recipe import SGD, Augmentation, Stage
from quench.training.schedules.linear import Linear

RECIPE = Recipe(
    data=ImageFolder(root="~/imagenet", size=288, centre=0.875, stream=True),
    model=ResNet(depth=50),
    threat=ThreatModel(norm=Linf(), epsilon=4 / 255),
    method=FGSMRS(step_ratio=1.25),
    budget=Epochs(15),
    batch_size=512,
    stages=(
        Stage(epochs=6, size=128, batch_size=512),
        Stage(epochs=6, size=224, batch_size=224),
        Stage(epochs=3, size=288, batch_size=128),
    ),
    optimizer=SGD(lr=0.4, nesterov=False, weight_decay=1e-4),
    schedule=Linear(at=(0.0, 1 / 15, 6 / 15, 12 / 15, 1.0), factors=(0.0, 1.0, 0.1, 0.01, 0.001)),
    augmentation=Augmentation(flip=True, crop=0.08),
    precision="bfloat16",
)
