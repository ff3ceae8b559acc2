from __future__ import annotations

import pytest

from quench.datasets.digits import Digits
from quench.datasets.subset import Subset
from quench.errors import InvalidValue


def test_it_is_always_the_same_part_and_knows_all_classes() -> None:
    part, again = (Subset(of=Digits(), train=500, test=100).load(50) for _ in range(2))
    assert [len(split) for split in (part.train, part.validation, part.test)] == [450, 50, 100]
    assert part.train.digest() == again.train.digest()
    assert len(part.classes) == 10
    assert part.train.labels.bincount(minlength=10).min() > 20
    everything = {bytes(image) for image in Digits().load(50).test.images.flatten(1).numpy()}
    assert {bytes(image) for image in part.test.images.flatten(1).numpy()} <= everything


def test_all_test_images_unless_told() -> None:
    assert len(Subset(of=Digits(), train=500).load(50).test) == 450


@pytest.mark.parametrize(("key", "counts"), [("train", (1348, 450)), ("test", (1347, 451))])
def test_no_more_than_there_are(key: str, counts: tuple[int, int]) -> None:
    with pytest.raises(InvalidValue, match=f"data.{key} = .* must be at most"):
        Subset(of=Digits(), train=counts[0], test=counts[1]).splits()
