"""Random numbers that depend on what they are for, and on nothing that was drawn before."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator

ORDER, PERTURBATION, AUGMENTATION, JUDGEMENT, CROP = range(5)
"""independent streams of random numbers within one seed"""


def generator(device: torch.device, seed: int, stream: int, *place: int) -> Generator:
    """A generator whose numbers depend on all arguments: nothing of it needs to be saved for a restart."""
    state = np.random.SeedSequence([seed, stream, *place]).generate_state(1, np.uint64)[0]
    return Generator(device).manual_seed(int(state >> np.uint64(1)))
