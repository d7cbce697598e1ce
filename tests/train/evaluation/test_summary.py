from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from dtir_sdk.errors import BundleError, ConfigurationError, OutputError
from dtir_sdk.sources import SAMPLE_PORTRAIT
from dtir_train.cli import main
from dtir_train.evaluation.baseline import Passes
from dtir_train.evaluation.recognition import Recognition
from dtir_train.evaluation.restoration import Restoration
from dtir_train.evaluation.subject import Subject
from dtir_train.evaluation.summary import Summary, summary, to_markdown

SIZE = 32
LABELS = ("cool", "warm")


def run(bundle: Path, secret: Path, target: Path, output: Path, align=False, **options) -> dict:
    epochs = {"baseline_epochs": 0, "judge_epochs": 1} | options
    subject = Subject((str(secret),), bundle, align=align, output=output)
    summary(subject, target=(str(target),), preset="tiny", **epochs)
    return json.loads((output / "summary.json").read_text())


@pytest.fixture(scope="module")
def evaluated(bundle, secret, target, tmp_path_factory) -> tuple[dict, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        output = tmp_path_factory.mktemp("evaluated") / "new" / "folder"
        options = {"baseline_epochs": 60, "judge_epochs": 60}
        return run(bundle, secret, target, output, **options), output


def test_recognition_is_counted_on_the_test_split(evaluated):
    (recognition,) = evaluated[0]["recognition"]
    assert recognition["source"] == "moods"
    assert (recognition["pictures"], recognition["not_found"]) == (8, 0)
    # Seven of eight; four of the five called cool, and all three called warm.
    assert recognition["accuracy"] == pytest.approx(7 / 8)
    assert recognition["balanced_accuracy"] == pytest.approx((4 / 5 + 1) / 2)
    assert recognition["majority"] == pytest.approx(5 / 8)


def test_the_baseline_learns_from_the_photos(evaluated):
    (recognition,) = evaluated[0]["recognition"]
    assert recognition["photo_accuracy"] == pytest.approx(7 / 8)


def test_restoration_is_measured_through_bytes(evaluated):
    (restoration,) = evaluated[0]["restoration"]
    assert restoration["pictures"] == 8
    # Every byte is 5 off.
    assert restoration["psnr"] == pytest.approx(20 * math.log10(255 / 5), abs=1e-3)
    assert 0.95 < restoration["ssim"] < 1


def test_cartoons_that_look_like_nothing_of_the_kind_are_told_apart(evaluated):
    assert evaluated[0]["told_apart"] > 0.9


def test_the_conditions_are_told(evaluated):
    conditions = evaluated[0]["conditions"]
    assert {"command", "date", "commit", "processor", "cores", "engine"} <= set(conditions)
    assert all(conditions.values())


def test_the_page_says_the_same(evaluated):
    page = (evaluated[1] / "summary.md").read_text()
    assert "| moods | 8 | 0 | 87.50% | 90.00% | 87.50% | 90.00% | 62.50% |" in page
    assert "| moods | 8 | 34.15 |" in page


def test_the_grid_shows_photos_cartoons_and_restored(evaluated):
    grid = cv2.imread(str(evaluated[1] / "summary.png")).astype(int)
    assert grid.shape == (3 * SIZE, 8 * SIZE, 3)
    photos, cartoons, restored = grid.reshape(3, SIZE, 8 * SIZE, 3)
    assert (cartoons == 255 - photos).all()
    assert (restored == photos - 5).all()


def test_faces_that_are_not_found_count_as_wrong(bundle, target, write_set, tmp_path):
    portrait = SAMPLE_PORTRAIT.read_bytes()
    wall = cv2.imencode(".png", np.full((90, 90, 3), 128, np.uint8))[1].tobytes()
    rows = [
        (f"{split}-{label}.jpg", split, label) for split in ("train", "test") for label in LABELS
    ]
    pictures = {row[0]: portrait for row in rows} | {"wall.png": wall}
    faces = write_set(tmp_path / "faces", [*rows, ("wall.png", "test", "cool")], pictures)
    result = run(bundle, faces, target, tmp_path / "out", align=True)
    (recognition,) = result["recognition"]
    assert (recognition["pictures"], recognition["not_found"]) == (3, 1)
    # The same face under both labels: one is right, of three pictures.
    assert recognition["accuracy"] == pytest.approx(1 / 3)
    assert recognition["balanced_accuracy"] == pytest.approx(1 / 2)
    assert recognition["photo_accuracy"] is None


def test_a_bundle_for_other_labels_is_refused(bundle, target, write_set, noisy, tmp_path):
    rows = [("a.png", "train", "0"), ("b.png", "test", "1"), ("c.png", "train", "1")]
    pictures = {row[0]: noisy((100, 100, 100), 0) for row in rows}
    secret = write_set(tmp_path / "faces", rows, pictures)
    with pytest.raises(
        ConfigurationError, match="recognises cool, warm, the data has not mood, mood"
    ):
        run(bundle, secret, target, tmp_path / "out")


def test_sources_that_differ_in_their_labels_are_refused(
    bundle, secret, target, write_set, noisy, tmp_path
):
    rows = [("a.png", "train", "warm"), ("b.png", "test", "wet")]
    pictures = {row[0]: noisy((100, 100, 100), 0) for row in rows}
    other = write_set(tmp_path / "faces", rows, pictures)
    with pytest.raises(ConfigurationError, match="recognises cool, warm"):
        summary(
            Subject((str(secret), str(other)), bundle, align=False, output=tmp_path / "out"),
            target=(str(target),),
        )


def test_no_bundle_is_refused(secret, target, tmp_path):
    with pytest.raises(BundleError, match="is not there"):
        run(tmp_path / "nowhere", secret, target, tmp_path / "out")


def test_results_that_cannot_be_written_are_an_error(bundle, secret, target, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="nothing can be written to"):
        run(bundle, secret, target, tmp_path / "file" / "out")


def test_the_command_evaluates(bundle, secret, target, tmp_path, capsys):
    options = ["--no-align", "--preset", "tiny", "--baseline-epochs", "0", "--judge-epochs", "1"]
    paths = ["--secret", secret, "--target", target, "--output", tmp_path / "out"]
    main(["evaluate", "summary", str(bundle), *map(str, paths), *options])
    assert "moods" in capsys.readouterr().out
    assert (tmp_path / "out" / "summary.png").is_file()


@pytest.mark.parametrize(
    "option", ["--judge-epochs=0", "--judge-epochs=nan", "--baseline-epochs=-1", "--seed=-1"]
)
def test_training_that_is_none_is_refused(bundle, secret, target, option, capsys):
    words = [str(bundle), "--secret", str(secret), "--target", str(target), "--no-align", option]
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "summary", *words])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{option[2:].split('=')[0].replace('-', '_')} is" in line


def test_a_page_without_a_baseline():
    result = Summary(
        (Recognition("faces", 10, 1, 0.5, 0.25, 0.75, None, None),),
        Passes(0),
        (Restoration("faces", 9, 20.0, 0.5),),
        0.625,
    )
    page = "\n".join(to_markdown(result))
    assert "| faces | 10 | 1 | 50.00% | 25.00% | - | - | 75.00% |" in page
    assert "| faces | 9 | 20.00 | 0.500 |" in page
    assert "62.5%" in page
    assert "passes" not in page


def test_the_page_says_how_long_the_baseline_was_trained(evaluated):
    document, output = evaluated
    assert document["baseline"] == {"epochs": 60, "preset": "tiny", "uncounted": None}
    assert "trained on the photos for 60 passes." in (output / "summary.md").read_text()


def test_a_fine_pattern_gives_cartoons_away(bundle, patterned, tmp_path):
    """Same colours, same shapes: one level of brightness from pixel to pixel tells."""
    document = run(bundle, *patterned, tmp_path / "output", judge_epochs=60)
    assert document["told_apart"] > 0.9
