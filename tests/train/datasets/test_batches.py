from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtir_train.configuration import Data
from dtir_train.datasets import Batches, Pictures
from dtir_train.datasets.batches import photos_of

SIZE = 8
STILL = Data(flip=False, jitter=0.0, colour_jitter=0.0, random_backgrounds=0.0)
VARIED = Data(flip=True, jitter=0.1, colour_jitter=0.2, random_backgrounds=0.5)


def numbered(count: int, alpha: int = 255) -> Pictures:
    """Pictures of one shade, their number; the number is the label too."""
    pictures = np.empty((count, SIZE, SIZE, 4), np.uint8)
    pictures[..., :3] = np.arange(count).reshape(-1, 1, 1, 1)
    pictures[..., 3] = alpha
    labels = np.arange(count, dtype=np.int64)
    return Pictures(pictures, labels, ("a", "b"), tuple(map(str, range(count))))


def shades(pictures: torch.Tensor) -> list[int]:
    return [round(float(picture.mean() + 1) * 127.5) for picture in pictures]


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))


@given(sizes, st.integers(0, 200))
def test_a_batch_is_a_function_of_the_step(made, step):
    secret, target, batch_size, seed = made
    once, again = (
        Batches(numbered(secret), numbered(target), VARIED, batch_size, seed) for _ in range(2)
    )
    for other in (step + 1, 0, step + 50):
        again[other]
    for name in ("photos", "labels", "targets"):
        assert torch.equal(getattr(once[step], name), getattr(again[step], name))


@given(sizes, st.integers(0, 50), st.integers(1, 4))
def test_processes_share_the_whole_batch_with_its_variation(made, step, processes):
    secret, target, share, seed = made
    pair = (numbered(secret, 100), numbered(target), VARIED, share * processes, seed)
    whole = Batches(*pair)[step]
    parts = [Batches(*pair, rank, processes)[step] for rank in range(processes)]
    for name in ("photos", "labels", "targets"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.allclose(joined, getattr(whole, name), atol=1e-4)
        assert {len(getattr(part, name)) for part in parts} == {share}


@given(sizes, st.integers(0, 3))
def test_an_epoch_shows_every_picture_once(made, epoch):
    secret, target, batch_size, seed = made
    batches = Batches(numbered(secret), numbered(target), STILL, batch_size, seed)
    steps = batches.steps_an_epoch
    first = epoch * steps
    shown = Counter(
        int(label) for step in range(first, first + steps) for label in batches[step].labels
    )
    if batch_size <= secret:
        # The last, smaller batch is left out.
        assert set(shown.values()) == {1}
        assert len(shown) == secret - secret % batch_size
    else:
        # A set smaller than a batch is repeated, evenly.
        assert len(shown) == secret
        assert max(shown.values()) - min(shown.values()) <= 1


@given(sizes)
def test_targets_flow_on_in_shuffles_of_their_own(made):
    secret, target, batch_size, seed = made
    batches = Batches(numbered(secret), numbered(target), STILL, batch_size, seed)
    steps = target  # enough for whole shuffles: batch_size of them
    shown = [shade for step in range(steps) for shade in shades(batches[step].targets)]
    for start in range(0, len(shown), target):
        assert sorted(shown[start : start + target]) == list(range(target))


def test_epochs_and_seeds_differ():
    def order(epoch: int, seed: int) -> list[int]:
        batch = Batches(numbered(40), numbered(40), STILL, 40, seed)[epoch]
        return batch.labels.tolist()

    assert order(0, 0) != order(1, 0) != order(0, 1) != order(0, 0)
    # The two domains are not shuffled alike.
    batch = Batches(numbered(40), numbered(40), STILL, 40, 0)[0]
    assert shades(batch.photos) != shades(batch.targets)


def test_labels_stay_with_their_pictures():
    batch = Batches(numbered(30), numbered(5), STILL, 30, 3)[0]
    assert shades(batch.photos) == batch.labels.tolist()
    assert batch.photos.dtype == batch.targets.dtype == torch.float32
    assert batch.labels.dtype == torch.int64


def test_what_is_varied_stays_in_range():
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (16, SIZE, SIZE, 4), dtype=np.uint8)
    pictures = Pictures(noise, np.zeros(16, np.int64), ("a", "b"), ("",) * 16)
    still = Batches(pictures, pictures, STILL, 16, 0)[0]
    varied = Batches(pictures, pictures, VARIED, 16, 0)[0]
    assert not torch.equal(still.photos, varied.photos)
    assert not torch.equal(still.targets, varied.targets)
    for batch in (still, varied):
        for drawn in (batch.photos, batch.targets):
            assert drawn.shape == (16, 3, SIZE, SIZE)
            assert drawn.min() >= -1
            assert drawn.max() <= 1 + 1e-6


def cut_out() -> Pictures:
    """Grey on the left, and on the right a white that is background."""
    pictures = np.full((12, SIZE, SIZE, 4), 255, np.uint8)
    pictures[:, :, : SIZE // 2, :3] = 100
    pictures[:, :, SIZE // 2 :, 3] = 0
    return Pictures(pictures, np.zeros(12, np.int64), ("a", "b"), ("",) * 12)


def backgrounds(share: float, step: int = 0) -> torch.Tensor:
    data = Data(flip=False, jitter=0.0, colour_jitter=0.0, random_backgrounds=share)
    return Batches(cut_out(), cut_out(), data, 12, 0)[step].photos


def test_cut_out_faces_get_a_random_background():
    photos = backgrounds(1.0)
    face, rest = photos[..., : SIZE // 2], photos[..., SIZE // 2 :]
    assert torch.allclose(face, torch.tensor(100 / 127.5 - 1))
    changed = (rest < 0.99).flatten(1).any(dim=1)
    assert changed.all()
    assert len({float(picture.mean()) for picture in rest}) == 12
    assert not torch.equal(photos, backgrounds(1.0, 1))


def test_without_random_backgrounds_white_stays_white():
    assert torch.equal(backgrounds(0.0)[..., SIZE // 2 :], torch.ones(12, 3, SIZE, SIZE // 2))


def test_only_a_share_gets_a_background():
    changed = sum(
        int((backgrounds(0.3, step)[..., SIZE // 2 :] < 0.99).flatten(1).any(dim=1).sum())
        for step in range(20)
    )
    # 240 draws of 0.3: 72, give or take five standard deviations.
    assert 36 < changed < 108


def test_what_is_half_background_gets_half_of_one():
    def on_black(alpha: int) -> torch.Tensor:
        black = numbered(12, alpha)
        black.pictures[..., :3] = 0
        data = Data(flip=False, jitter=0.0, colour_jitter=0.0, random_backgrounds=1.0)
        return Batches(black, black, data, 12, 0)[0].photos + 1

    assert torch.allclose(on_black(127), on_black(0) * (128 / 255), atol=1e-4)


def test_targets_move_half_as_far_as_photos_and_by_themselves():
    dot = np.full((64, 33, 33, 4), 255, np.uint8)
    dot[..., :3] = 0
    dot[:, 15:18, 15:18, :3] = 255
    pictures = Pictures(dot, np.zeros(64, np.int64), ("a", "b"), ("",) * 64)
    data = Data(flip=False, jitter=0.2, colour_jitter=0.0, random_backgrounds=0.0)
    batch = Batches(pictures, pictures, data, 64, 0)[0]
    places = torch.arange(33.0)

    def columns(made: torch.Tensor) -> torch.Tensor:
        light = (made[:, 0] + 1).sum(dim=1)
        return (light * places).sum(dim=1) / light.sum(dim=1) - 16

    photos, targets = columns(batch.photos), columns(batch.targets)
    assert float(targets.std() / photos.std()) == pytest.approx(0.5, abs=0.15)
    assert abs(torch.corrcoef(torch.stack([photos, targets]))[0, 1]) < 0.4


def test_targets_have_no_random_backgrounds():
    data = Data(flip=False, jitter=0.0, colour_jitter=0.0, random_backgrounds=1.0)
    targets = Batches(cut_out(), cut_out(), data, 12, 0)[0].targets
    assert torch.equal(targets[..., SIZE // 2 :], torch.ones(12, 3, SIZE, SIZE // 2))


@pytest.mark.parametrize("ahead", [True, False])
def test_batches_prepared_are_the_same(ahead):
    batches = Batches(numbered(30), numbered(5), VARIED, 4, 3)
    made = list(batches.prepared(2, 9, ahead=ahead))
    assert len(made) == 7
    for step, batch in enumerate(made, start=2):
        assert torch.equal(batch.photos, batches[step].photos)
    assert not list(batches.prepared(9, 9, ahead=ahead))


@pytest.mark.parametrize("ahead", [True, False])
def test_what_goes_wrong_is_told_in_its_turn(ahead):
    class Broken(Batches):
        def __getitem__(self, step):
            if step == 1:
                raise OSError("the disk is gone")
            return super().__getitem__(step)

    made = Broken(numbered(30), numbered(5), STILL, 4, 3).prepared(0, 5, ahead=ahead)
    next(made)
    with pytest.raises(OSError, match="the disk is gone"):
        next(made)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="no multiple"):
        Batches(numbered(9), numbered(9), STILL, 4, 0, 0, 3)


def test_photos_as_they_are():
    photos, labels = photos_of(numbered(10), np.arange(2, 5))
    assert shades(photos) == labels.tolist() == [2, 3, 4]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("step", [0, 7])
def test_a_gpu_varies_pictures_as_the_cpu_does(step):
    device = torch.device("cuda")
    here = Batches(cut_out(), cut_out(), VARIED, 12, 0)[step]
    there = Batches(cut_out(), cut_out(), VARIED, 12, 0, device=device)[step]
    for name in ("photos", "labels", "targets"):
        made = getattr(there, name)
        assert made.device.type == "cuda"
        assert torch.allclose(made.cpu().float(), getattr(here, name).float(), atol=1e-2)
