from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from dtir_train.datasets.augmentation import blurred, moved, random_backgrounds, recoloured
from dtir_train.datasets.draws import Draws


def seeded(count: int, seed: int = 0) -> Draws:
    return Draws((seed, place) for place in range(count))


def noise(count: int = 8, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(9)) * 255


def test_no_jitter_and_no_flip_leave_pictures_as_they_are():
    assert torch.equal(moved(noise(), 0.0, False, seeded(8)), noise())
    assert torch.equal(recoloured(noise(), 0.0, seeded(8)), noise())
    assert torch.equal(blurred(noise(), 0.0, seeded(8)), noise())


def test_a_flip_alone_is_exact():
    pictures = noise(32)
    flipped = moved(pictures, 0.0, True, seeded(32))
    as_is = [torch.allclose(a, b, atol=1e-2) for a, b in zip(pictures, flipped, strict=True)]
    mirrored = [
        torch.allclose(a.flip(2), b, atol=1e-2) for a, b in zip(pictures, flipped, strict=True)
    ]
    assert all(a != b for a, b in zip(as_is, mirrored, strict=True))
    assert 4 < sum(mirrored) < 28


@pytest.mark.parametrize(
    "change",
    [
        lambda pictures, draws: moved(pictures, 0.1, True, draws),
        lambda pictures, draws: recoloured(pictures, 0.2, draws),
        lambda pictures, draws: blurred(pictures, 1.0, draws),
    ],
    ids=["moved", "recoloured", "blurred"],
)
def test_the_same_draws_give_the_same_pictures(change):
    once, again, other = (change(noise(), seeded(8, seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_moving_takes_alpha_along():
    pictures = noise(6, 3)
    with_alpha = torch.cat([pictures, pictures[:, :1]], dim=1)
    made = moved(with_alpha, 0.1, True, seeded(6))
    assert torch.equal(made[:, 0], made[:, 3])


def test_what_was_moved_is_still_a_picture():
    made = moved(noise(), 0.3, True, seeded(8))
    assert made.shape == noise().shape
    assert made.min() >= 0
    assert made.max() <= 255


def test_moving_keeps_fine_detail():
    """Networks that are trained on softened photos restore softened ones."""
    # Stripes four pixels wide, light and dark: 0.8 of them are left bilinearly.
    stripes = 127.5 + 60 * torch.sin(torch.arange(64.0) * torch.pi / 2 + 0.4)
    pictures = stripes.expand(64, 1, 64, 64)
    made = moved(pictures, 0.02, False, seeded(64))
    assert made[..., 8:-8, 8:-8].std() / pictures.std() > 0.95


def test_a_shift_stays_within_the_jitter():
    # A bright dot in the middle of 33 pixels, jitter 0.1: 3.3 pixels, and a blur of one.
    picture = torch.zeros(64, 1, 33, 33)
    picture[:, :, 15:18, 15:18] = 255
    made = moved(picture, 0.1, False, seeded(64))
    rows, columns = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    weight = made[:, 0] / made[:, 0].sum(dim=(1, 2), keepdim=True)
    for axis in (rows, columns):
        offset = (weight * axis).sum(dim=(1, 2)) - 16
        assert 2.5 < offset.abs().max() < 4.5
        assert offset.std() > 0.5


def test_zoom_and_turn_stay_within_the_jitter():
    # Two dots 16 pixels apart, each in a channel of its own; jitter 0.1, a turn of 0.05 radians.
    picture = torch.zeros(64, 2, 33, 33)
    picture[:, 0, 15:18, 7:10] = picture[:, 1, 15:18, 23:26] = 255
    made = moved(picture, 0.1, False, seeded(64))
    rows, columns = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    weight = made / made.sum(dim=(2, 3), keepdim=True)
    down, right = ((weight * axis).sum(dim=(2, 3)).diff(dim=1) for axis in (rows, columns))
    lengths = torch.hypot(down, right)
    assert 14 < lengths.min() < 15
    assert 17 < lengths.max() < 18.5
    assert 0.03 < torch.atan2(down, right).abs().max() < 0.065


def test_brightness_contrast_and_saturation_change_by_themselves():
    pictures = 100 + noise(64) / 10
    made = recoloured(pictures, 0.2, seeded(64))

    def told(picture: torch.Tensor) -> torch.Tensor:
        grey = picture.mean(dim=1, keepdim=True)
        axes = (1, 2, 3)
        return torch.stack([grey.mean(axes), grey.std(axes), (picture - grey).std(axes)])

    brightness, contrast, colour = told(made) / told(pictures)
    factors = torch.stack([brightness, contrast, colour / contrast])
    assert (factors.amin(dim=1) > 0.79).all()
    assert (factors.amax(dim=1) < 1.21).all()
    assert (factors.std(dim=1) > 0.08).all()
    assert (torch.corrcoef(factors) - torch.eye(3)).abs().max() < 0.5


def test_recolouring_stays_in_range_and_changes_each_picture():
    made = recoloured(noise(), 0.5, seeded(8))
    assert made.min() >= 0
    assert made.max() <= 255
    factors = (made.mean(dim=(1, 2, 3)) / noise().mean(dim=(1, 2, 3))).tolist()
    assert len({round(factor, 4) for factor in factors}) == len(factors)
    assert all(0.45 < factor < 1.55 for factor in factors)


def test_each_picture_is_blurred_by_a_gaussian_of_its_own_width():
    changed = blurred(noise(), 1.5, seeded(8))
    widths = (seeded(8).uniform() * 1.5).tolist()
    assert min(widths) < 0.5
    assert max(widths) > 1.0
    for before, after, width in zip(noise(), changed, widths, strict=True):
        picture = np.ascontiguousarray(before.permute(1, 2, 0).numpy())
        expected = cv2.GaussianBlur(picture, (11, 11), max(width, 0.1))
        np.testing.assert_allclose(after.permute(1, 2, 0).numpy(), expected, atol=1e-3)


def test_backgrounds_are_all_different_and_in_range():
    made = random_backgrounds(16, seeded(6))
    assert made.shape == (6, 3, 16, 16)
    assert made.min() >= 0
    assert made.max() <= 255
    assert all(picture.std() > 1 for picture in made)
    assert len({float(picture.mean()) for picture in made}) == 6
    assert torch.equal(made, random_backgrounds(16, seeded(6)))
