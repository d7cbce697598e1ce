from __future__ import annotations

import json

import cv2
import pytest

from dtir_sdk.errors import ConfigurationError
from dtir_train.cli import main
from dtir_train.evaluation import figures as module
from dtir_train.evaluation.figures import figures
from dtir_train.evaluation.subject import Subject

SIZE = 32


def run(bundle, secret, target, output, **options) -> dict:
    subject = Subject((str(secret),), bundle, align=False, output=output)
    figures(subject, target=(str(target),), preset="tiny", **options)
    return json.loads((output / "figures.json").read_text())


@pytest.fixture(scope="module")
def measured(bundle, patterned, tmp_path_factory):
    output = tmp_path_factory.mktemp("figures")
    return run(bundle, *patterned, output, judge_epochs=60, blurs=(0.0, 3.0)), output


def test_a_blur_wipes_out_the_fine_pattern_that_gives_cartoons_away(measured):
    plain, blurred = measured[0]["likeness"]
    assert (plain["blur"], blurred["blur"]) == (0.0, 3.0)
    assert plain["transferred"] > 0.9
    assert blurred["transferred"] < 0.8


def test_flat_pixels_are_counted(measured):
    # A chequerboard lies on the photos and their negatives, and nothing on the targets.
    assert measured[0]["flat"] == {"source": 0, "transferred": 0, "target": 1}


def test_samples_show_photos_cartoons_restored_and_difference(measured):
    samples = cv2.imread(str(measured[1] / "figures.png")).astype(int)
    assert samples.shape == (4 * SIZE, 8 * SIZE, 3)
    photos, cartoons, restored, difference = samples.reshape(4, SIZE, 8 * SIZE, 3)
    assert (cartoons == 255 - photos).all()
    assert (restored == photos - 5).all()
    assert (difference == 25).all()


def test_every_figure_is_left(measured):
    document, output = measured
    for name in ("figures-tsne.png", "figures-texture.png"):
        assert cv2.imread(str(output / name)).std() > 0
    assert document["points"] == 8
    page = (output / "figures.md").read_text()
    plain = document["likeness"][0]
    assert f"| not | {plain['source']:.1%} | {plain['transferred']:.1%} |" in page


@pytest.mark.parametrize(
    "options",
    [{"points": 1}, {"judge_epochs": 0}, {"blurs": ()}, {"blurs": (-1.0,)}, {"blurs": (21.0,)}],
)
def test_options_that_show_nothing_are_refused(bundle, secret, target, tmp_path, options):
    words = r"points is 1|no blurs|blurs holds (-1|21)|judge_epochs is 0"
    with pytest.raises(ConfigurationError, match=words):
        run(bundle, secret, target, tmp_path, **options)


def test_without_scikit_learn_there_is_a_line(bundle, secret, target, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r'pip install "dtir\[train\]"'):
        run(bundle, secret, target, tmp_path)


def test_the_command(bundle, secret, target, tmp_path, capsys):
    paths = ["--secret", secret, "--target", target, "--output", tmp_path]
    options = ["--no-align", "--preset", "tiny", "--judge-epochs", "1", "--blurs", "0"]
    main(["evaluate", "figures", str(bundle), *map(str, paths), *options])
    assert "Flat pixels" in capsys.readouterr().out
    assert (tmp_path / "figures.png").is_file()
