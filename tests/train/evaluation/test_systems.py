from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dtir_sdk.errors import BundleError, ConfigurationError
from dtir_train.channel import from_bytes, to_bytes
from dtir_train.checkpoint import (
    CHECKPOINT_NAME,
    load_checkpoint,
    load_trained,
    save_checkpoint,
)
from dtir_train.configuration import PRESETS
from dtir_train.evaluation.baseline import Passes
from dtir_train.evaluation.systems import open_system, paired_batches, transferred_batches


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (18, 32, 32, 3), np.uint8)


def rgb_tensor(pictures):
    return from_bytes(torch.from_numpy(pictures[..., ::-1].copy()).permute(0, 3, 1, 2))


def bgr_bytes(tensor):
    return to_bytes(tensor).permute(0, 2, 3, 1).numpy()[..., ::-1]


def test_photos_of_a_batch_become_cartoons_and_stand_beside_them(bundle, pictures):
    photos, labels = rgb_tensor(pictures), torch.arange(18)
    with open_system(bundle) as system:
        cartoons, kept = paired_batches(system, lambda _: (photos, labels))(0)
        alike, labelled = transferred_batches(system, lambda _: (photos, labels))(0)
    assert (bgr_bytes(cartoons) == 255 - pictures).all()
    assert torch.equal(kept, photos)
    assert torch.equal(alike, cartoons)
    assert torch.equal(labelled, labels)


def test_a_bundle_is_run_through_the_sdk(bundle, pictures):
    with open_system(bundle) as system:
        cartoons = system.transfer(pictures)
        assert (cartoons == 255 - pictures).all()
        assert (system.restore(cartoons) == (pictures.astype(int) - 5) % 256).all()
        read = system.probabilities(cartoons)
    assert read.shape == (18, 2)
    assert np.allclose(read.sum(axis=1), 1)
    assert (system.name, system.labels, system.image_size) == ("tiny", ("cool", "warm"), 32)
    assert system.attribute == "mood"
    assert system.configuration is None


@pytest.mark.parametrize("which", ["folder", "file"])
def test_a_run_is_run_by_its_averaged_networks(trained_run, pictures, which):
    trained = load_trained(trained_run)
    with open_system(trained_run if which == "folder" else trained_run / CHECKPOINT_NAME) as system:
        cartoons, restored = system.transfer(pictures), system.restore(pictures)
        read = system.probabilities(pictures)
    with torch.no_grad():
        expected = bgr_bytes(trained.transfer(rgb_tensor(pictures))).astype(int)
        expected_restored = bgr_bytes(trained.restorer(rgb_tensor(pictures))).astype(int)
        logits = trained.recognizer(rgb_tensor(pictures))
    # The memory's layout may round a level away.
    assert abs(cartoons - expected).max() <= 1
    assert abs(restored - expected_restored).max() <= 1
    assert cartoons.dtype == restored.dtype == np.uint8
    assert np.allclose(read, logits.softmax(dim=1).numpy(), atol=1e-4)
    assert (system.name, system.labels, system.attribute) == ("shapes", ("disc", "square"), "shape")
    assert system.configuration == trained.configuration


def test_no_path_is_the_bundle_that_comes_with_dtir():
    with open_system(None) as system:
        assert system.labels == ("female", "male")


def test_sizes_to_compare_with(bundle, trained_run):
    with open_system(trained_run) as system:
        assert system.comparable(None).recognizer_width == 8
        assert system.comparable("edge").recognizer_width == 32
        assert system.comparable("edge").image_size == 32
    with open_system(bundle) as system:
        assert system.comparable(None) == system.comparable("edge")


def passes(system, preset=None, asked=None, *, used=False) -> Passes:
    return Passes.of(system, preset, asked, used=used)


def test_a_baseline_is_trained_as_long_as_the_run(trained_run):
    with open_system(trained_run) as system:
        assert passes(system) == Passes(system.configuration.recipe.epochs)
        # A preset gives the size alone.
        own = system.configuration.recipe
        assert passes(system, "edge") == Passes(own.epochs, "edge")
        assert system.comparable_batch("edge") == own.batch_size
        assert "by the recognizer of `edge`, trained on" in passes(system, "edge").note()[0]
        assert "by the same recognizer, trained on" in passes(system).note()[0]
        assert passes(system, asked=3) == Passes(3)
        assert not Passes(0).note()


def test_passes_that_are_not_counted_are_told(bundle, trained_run):
    with open_system(trained_run) as system:
        began = replace(system.configuration, start_from="runs/before")
        chained = replace(system, configuration=began)
        assert (
            "Those that the system had before, as runs/before, do not" in passes(chained).note()[0]
        )
        assert passes(chained, asked=7).note() == Passes(7).note()
    with open_system(bundle) as system:
        for preset in (None, "tiny"):
            recipe = PRESETS[preset or "edge"].recipe
            assert passes(system, preset).epochs == recipe.epochs
            assert system.comparable_batch(preset) == recipe.batch_size
        assert "A bundle does not say how many its own recognizer had" in passes(system).note()[0]


def test_a_preset_of_nothing_is_refused(bundle):
    with open_system(bundle) as system:
        with pytest.raises(
            ConfigurationError, match="preset tiny is for networks that are trained"
        ):
            passes(system, "tiny", 0)
        assert passes(system, "tiny", 0, used=True) == Passes(0)


def test_a_folder_that_is_neither_is_refused(tmp_path):
    with pytest.raises(BundleError, match="is no bundle"), open_system(tmp_path):
        pass


def test_a_truncated_checkpoint_is_refused(trained_run, tmp_path):
    whole = (trained_run / CHECKPOINT_NAME).read_bytes()
    (tmp_path / CHECKPOINT_NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigurationError, match="truncated"), open_system(tmp_path):
        pass


def test_a_recognizer_of_photos_is_no_system(trained_run, tmp_path):
    saved = load_checkpoint(trained_run)
    alone = replace(saved, tensors={"recognizer": saved.tensors["recognizer"]})
    save_checkpoint(alone, tmp_path / CHECKPOINT_NAME)
    match = "a recognizer of photos alone"
    with pytest.raises(ConfigurationError, match=match), open_system(tmp_path):
        pass
