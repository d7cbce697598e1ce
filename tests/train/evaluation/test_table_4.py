from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_train.baluja import HidingRecipe
from dtir_train.cli import main
from dtir_train.evaluation.arrays import as_tensor
from dtir_train.evaluation.permutation import PixelPermutation
from dtir_train.evaluation.subject import Subject
from dtir_train.evaluation.table_4 import table_4

SIZE = 32
RECIPE = HidingRecipe(filters=2, steps=2, batch_size=4, crop=16)


def run(bundle, secret, target, output, recipe=RECIPE, **options) -> dict:
    subject = Subject((str(secret),), bundle, align=False, output=output)
    table_4(subject, recipe, target=(str(target),), **options)
    return json.loads((output / "table-4.json").read_text())


@pytest.fixture(scope="module")
def measured(bundle, secret, target, tmp_path_factory):
    output = tmp_path_factory.mktemp("table-4")
    return run(bundle, secret, target, output), output


def test_every_method_is_measured_with_and_without_permutation(measured):
    rows = [(one["method"], one["permuted"]) for one in measured[0]["restored"]]
    peer = "Baluja, 2017"
    assert rows == [("tiny", False), (peer, False), ("tiny", True), (peer, True)]
    assert {one["source"] for one in measured[0]["restored"]} == {"moods"}
    assert {one["pictures"] for one in measured[0]["restored"]} == {8}


def test_a_system_that_changes_pixels_alone_does_not_mind_permutation(measured):
    plain, _, permuted, _ = measured[0]["restored"]
    # Every byte is 5 off.
    assert plain["psnr"] == pytest.approx(20 * math.log10(255 / 5), abs=1e-3)
    assert permuted["psnr"] == pytest.approx(plain["psnr"])
    assert permuted["ssim"] == pytest.approx(plain["ssim"])
    assert plain["container_psnr"] is plain["container_ssim"] is None


def test_what_a_peer_sends_is_compared_with_its_covers(measured):
    for one in measured[0]["restored"][1::2]:
        assert 0 < one["container_psnr"] < 60
        assert -1 <= one["container_ssim"] <= 1
        assert 0 < one["psnr"] < 60


def test_the_page_and_the_picture(measured):
    document, output = measured
    page = (output / "table-4.md").read_text()
    assert "| tiny | as they are | moods | 8 | 0 | 34.15 |" in page
    assert "| tiny | permuted | moods | 8 | 0 | 34.15 |" in page
    assert "2 steps of 4 pairs" in page
    assert document["hiding"]["filters"] == 2
    # Photos, what is sent, and restored photos of four measurements.
    assert cv2.imread(str(output / "table-4.png")).shape == (4 * 3 * SIZE, 8 * SIZE, 3)


def test_the_peer_may_be_left_out(bundle, secret, target, tmp_path):
    document = run(bundle, secret, target, tmp_path, HidingRecipe(steps=0))
    assert [one["method"] for one in document["restored"]] == ["tiny", "tiny"]
    assert document["hiding"] is None
    assert "Baluja" not in (tmp_path / "table-4.md").read_text()


def test_the_command_permutes_by_its_key(bundle, secret, target, tmp_path, capsys):
    paths = ["--secret", secret, "--target", target, "--output", tmp_path]
    options = ["--no-align", "--steps", "0", "--key", "5"]
    main(["evaluate", "table-4", str(bundle), *map(str, paths), *options])
    assert "permuted" in capsys.readouterr().out
    rows = cv2.imread(str(tmp_path / "table-4.png")).reshape(2, 3, SIZE, 8, SIZE, 3)
    plain, permuted = rows[:, 1].swapaxes(1, 2)
    # The system of this test changes pixels alone, wherever they stand.
    assert (PixelPermutation(SIZE, 5).apply(plain) == permuted).all()


@given(side=st.sampled_from([4, 32]), key=st.integers(0, 2**32), seed=st.integers(0, 99))
def test_a_permutation_is_undone_and_moves_whole_pixels(side, key, seed):
    pictures = np.random.default_rng(seed).integers(0, 256, (2, side, side, 3), np.uint8)
    permutation = PixelPermutation(side, key)
    moved = permutation.apply(pictures)
    assert (permutation.undo(moved) == pictures).all()
    before, after = (sorted(map(tuple, one[0].reshape(-1, 3))) for one in (pictures, moved))
    assert before == after
    assert (PixelPermutation(side, key).apply(pictures) == moved).all()


def test_tensors_are_permuted_as_arrays_are():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    permutation = PixelPermutation(8, 5)
    assert (permutation.apply(pictures) != pictures).any()
    assert (PixelPermutation(8, 6).apply(pictures) != permutation.apply(pictures)).any()
    as_one = as_tensor(permutation.apply(pictures))
    assert (permutation.apply_tensor(as_tensor(pictures)) == as_one).all()
