"""quench: fast adversarial training, measured against the wall-clock time it costs.

The public names are imported on first use, so that ``import quench`` costs milliseconds and
`quench --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quench.evaluation import Examination, RobustnessReport, evaluate
    from quench.sweep import Choice, LogUniform, Sweep, Uniform
    from quench.threat_model import ThreatModel
    from quench.training.loop import fit
    from quench.training.recipe import Recipe

__version__ = "0.1.0"

_HOME = {
    "Choice": "quench.sweep",
    "Examination": "quench.evaluation",
    "LogUniform": "quench.sweep",
    "Recipe": "quench.training.recipe",
    "RobustnessReport": "quench.evaluation",
    "Sweep": "quench.sweep",
    "ThreatModel": "quench.threat_model",
    "Uniform": "quench.sweep",
    "evaluate": "quench.evaluation",
    "fit": "quench.training.loop",
}
__all__ = [
    "Choice",
    "Examination",
    "LogUniform",
    "Recipe",
    "RobustnessReport",
    "Sweep",
    "ThreatModel",
    "Uniform",
    "evaluate",
    "fit",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'quench' has no attribute {name!r}")
