"""Training asks the device for nothing: it would stand still while the answer travels and the next work arrives."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from conftest import tiny_recipe
from quench.catalogue import members
from quench.config import override
from quench.methods import Method
from quench.ranks import Ranks
from quench.training.epoch import Training
from quench.training.overfitting import Watch
from quench.training.state import TrainState
from quench.training.streaming import feed_of

PYTHON = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__"}
PYTHON |= {"tensor", "new_tensor", "as_tensor", "from_numpy"}  # a copy from memory that is not pinned waits, too
INSIDE = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "_linalg_check_errors"}


class Requests(TorchFunctionMode):
    """What on a GPU would wait for it: calls from Python by name, but those on a tensor that stays on the host."""

    def __init__(self, host: torch.Tensor) -> None:
        super().__init__()
        self.seen, self.inside, self._host = Counter[str](), _Inside(), host

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if args and args[0] is self._host:
            with _disable_current_modes():
                return func(*args, **kwargs)
        moves = name == "to" and any(isinstance(a, str | torch.device) for a in args) and "non_blocking" not in kwargs
        self.seen[name] += name in PYTHON or moves
        return func(*args, **kwargs)


class _Inside(TorchDispatchMode):
    """... and operators that do so of themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        masks = name.startswith("index") and any(i is not None and i.dtype == torch.bool for i in args[1] or ())
        self.seen[name] += name in INSIDE or masks
        return func(*args, **(kwargs or {}))


CASES = [f"{norm} {name}" for name, method in members(Method).items() for norm in method.norms if norm != "l1"]


@pytest.mark.parametrize("case", [*CASES, "l1 fast_eg_l1"])
def test_an_epoch_asks_once_at_its_end_and_when_the_guard_looks(case: str) -> None:
    norm, method = case.split()
    changes = {"threat.norm": norm, "method": method, "guard.every": 4, "averaging": 0.9, "label_smoothing": 0.1}
    recipe = override(tiny_recipe(), changes | {"augmentation": {"padding": 1, "flip": True}, "precision": "bfloat16"})
    data = recipe.data.load(recipe.validation)
    few = data.train.take(torch.arange(80))
    state = TrainState.initial(recipe, data.spec(), torch.device("cpu"))
    recipe = override(recipe, {"batch_size": 8})
    watch = Watch(recipe.guard, state, lambda model, attack: (0.0, 0.0), Ranks())
    training = Training(state, state.model, recipe, len(few), feed_of(few, recipe), Ranks(), watch, save=None)
    host = state.averaged.n_averaged if state.averaged else None
    assert isinstance(host, torch.Tensor)
    with Requests(host) as asked, asked.inside:
        training.epoch()
    looks = state.updates // recipe.guard.every
    assert +asked.seen == Counter({"tolist": 1 + looks, "to": 1})  # the order of the images goes to the device
    assert +asked.inside.seen == Counter()
