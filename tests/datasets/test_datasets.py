from __future__ import annotations

import pytest
import torch

from quench.datasets import Batch, Data, Split
from quench.datasets.digits import Digits
from quench.errors import InvalidValue


@pytest.fixture(scope="module")
def digits() -> Data:
    return Digits().load(validation=150)


def test_digits_are_the_published_ones(digits: Data) -> None:
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [1197, 150, 450]
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.images.shape[1:] == (1, 8, 8)
    assert digits.train.labels.dtype == torch.int64
    everything = torch.cat([s.labels for s in (digits.train, digits.validation, digits.test)])
    assert everything.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # UCI's counts


def test_splits_share_no_image_and_do_not_move(digits: Data) -> None:
    again = Digits().load(validation=150)
    assert torch.equal(again.validation.images, digits.validation.images)
    assert torch.equal(Digits().load(validation=100).test.images, digits.test.images)
    rows = [{bytes(image.numpy().tobytes()) for image in s.images} for s in (digits.train, digits.validation)]
    assert not rows[0] & rows[1]


def test_batch_is_pixels_in_the_unit_interval(digits: Data) -> None:
    batch = digits.test.batch(torch.tensor([3, 5]))
    assert isinstance(batch, Batch)
    assert batch.x.dtype == torch.float32
    assert torch.equal(batch.x * 255, digits.test.images[[3, 5]].float())
    assert batch.index.tolist() == [3, 5]


def test_spec_has_the_moments_of_the_training_pixels(digits: Data) -> None:
    spec, pixels = digits.spec(), digits.train.images.double() / 255
    assert spec.shape == (1, 8, 8)
    assert spec.classes == 10
    assert spec.mean[0] == pytest.approx(float(pixels.mean()))
    assert spec.std[0] == pytest.approx(float(pixels.std(correction=0)))


def test_constant_channels_can_be_normalised() -> None:
    black = Split(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    assert min(Data(black, black, black, ("a",)).spec().std) > 0


@pytest.mark.parametrize("validation", [0, 1347, 5000])
def test_hold_out_must_leave_images_to_train_on(validation: int) -> None:
    with pytest.raises(InvalidValue, match="validation = .*must be from 1 to 1346"):
        Digits().load(validation)


def test_a_digest_tells_examples_apart_and_is_the_same_elsewhere(digits: Data) -> None:
    again = Digits().load(validation=150).about()
    assert digits.about() == again
    assert again["shape"] == [1, 8, 8]
    test = digits.test
    assert isinstance(test, Split)
    others = [
        Split(test.images + 1, test.labels),
        Split(test.images, test.labels.flip(0)),
        test.take(torch.arange(1, len(test))),
        test.take(torch.arange(len(test)).flip(0)),
    ]
    assert len({test.digest(), *(other.digest() for other in others)}) == 5
