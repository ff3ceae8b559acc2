"""A trained network as MLflow loads it: images in, logits out. This file travels with every registered model.

Beside it are the network's description as JSON and its weights in safetensors; nothing is unpickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from safetensors.torch import load_file

from quench.config import decode
from quench.datasets import ImageSpec
from quench.models import Model

BATCH = 256
"""images that are looked at together"""


class Network(PythonModel):
    """On the GPU if there is one."""

    def load_context(self, context: PythonModelContext) -> None:
        about: dict[str, Any] = json.loads(Path(context.artifacts["network"]).read_text())
        channels = about["shape"][0]
        # How to normalise is among the weights.
        images = ImageSpec(tuple(about["shape"]), len(about["classes"]), (0.0,) * channels, (1.0,) * channels)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = decode(Model, about["model"]).build(images, seed=0)
        self.network.load_state_dict(load_file(context.artifacts["weights"]))
        self.network.eval().to(self.device)

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride] - of one that returns nothing
        self, context: PythonModelContext, model_input: np.ndarray, params: Any = None
    ) -> np.ndarray:
        """`(N, C, H, W)` float32 in [0, 1] -> `(N, classes)` float32."""
        images = torch.from_numpy(np.ascontiguousarray(model_input))
        with torch.no_grad():
            return torch.cat([self.network(part.to(self.device)).cpu() for part in images.split(BATCH)]).numpy()


set_model(Network())
