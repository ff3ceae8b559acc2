from __future__ import annotations

import pytest

from quench.attacks import Attack
from quench.catalogue import Plugin, is_family, members, name_of
from quench.datasets import Dataset
from quench.geometry import Geometry
from quench.methods import Method
from quench.models import Model
from quench.training.budgets import Budget
from quench.training.schedules import Schedule

FAMILIES: dict[type[Plugin], set[str]] = {
    Attack: {"apgd", "autoattack", "fab", "pgd", "pyautoattack", "square"},
    Dataset: {"cifar", "digits", "image_folder", "parquet", "restricted_imagenet", "subset"},
    Geometry: {"l1", "l2", "linf"},
    Budget: {"epochs", "seconds"},
    Method: {
        "aaer",
        "elle",
        "fast_eg_l1",
        "fgsm",
        "fgsm_pgi",
        "fgsm_rs",
        "free",
        "grad_align",
        "liet",
        "n_fgsm",
        "nuat",
        "pgd",
        "sora",
        "standard",
        "trades",
    },
    Model: {"preact_resnet", "resnet", "small_cnn"},
    Schedule: {"linear", "one_cycle", "piecewise"},
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_members_are_found_by_their_files(family: type[Plugin]) -> None:
    assert is_family(family)
    assert members(family).keys() >= FAMILIES[family]
    for name, member in members(family).items():
        assert name_of(member) == name
        assert not is_family(member)
        assert not member.__abstractmethods__, "a member is final: nothing in it is left to implement"
        assert family in member.__bases__
        others = set(members(family).values()) - {member}
        assert others.isdisjoint(member.__mro__), "nothing implemented is inherited from another member"
