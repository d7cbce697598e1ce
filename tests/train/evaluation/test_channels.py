from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dtir_sdk.errors import BundleError, ConfigurationError, OutputError
from dtir_train.checkpoint import CHECKPOINT_NAME
from dtir_train.cli import main
from dtir_train.evaluation.channels import Channels, Passage, channels, to_markdown

NAMES = ("jpeg-75", "h264-28", "noise-10", "half")


def run(systems: tuple[Path, ...], secret: Path, output: Path, **options) -> list[dict]:
    values = {"channel": NAMES, "align": False} | options
    channels(systems, secret=(str(secret),), output=output, **values)
    return json.loads((output / "channels.json").read_text())["passages"]


@pytest.fixture(scope="module")
def twin(bundle, tmp_path_factory) -> Path:
    """The same bundle in another folder."""
    folder = tmp_path_factory.mktemp("other") / "twin"
    shutil.copytree(bundle, folder)
    return folder


@pytest.fixture(scope="module")
def measured(bundle, twin, secret, tmp_path_factory) -> tuple[list[dict], Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        output = tmp_path_factory.mktemp("channels")
        return run((bundle, twin), secret, output), output


def test_every_channel_has_each_system_side_by_side(measured):
    order = [(passage["channel"], passage["system"]) for passage in measured[0]]
    assert order == [(name, system) for name in ("bytes", *NAMES) for system in ("tiny", "twin")]


def test_the_clean_channel_loses_nothing(measured):
    clean = measured[0][0]
    assert (clean["source"], clean["pictures"], clean["not_found"]) == ("moods", 8, 0)
    assert clean["accuracy"] == pytest.approx(7 / 8)
    assert clean["balanced_accuracy"] == pytest.approx((4 / 5 + 1) / 2)
    assert clean["psnr"] == pytest.approx(20 * math.log10(255 / 5), abs=1e-3)
    assert (clean["lost_points"], clean["lost_decibels"], clean["kilobytes"]) == (0, 0, None)


def test_what_is_lost_is_against_the_same_systems_clean_channel(measured):
    clean = measured[0][0]
    for passage in measured[0][2:]:
        lost = 100 * (clean["accuracy"] - passage["accuracy"])
        assert passage["lost_points"] == pytest.approx(lost)
        assert passage["lost_decibels"] == pytest.approx(clean["psnr"] - passage["psnr"])
        # The noise in these photos is what no channel carries as it was.
        assert passage["lost_decibels"] > 2
        assert passage["ssim"] < clean["ssim"]
        assert (passage["kilobytes"] or 1) > 0.3


def test_equal_systems_lose_equally(measured):
    for one, other in zip(measured[0][::2], measured[0][1::2], strict=True):
        assert other == one | {"system": "twin"}


def test_the_pictures_can_be_read(measured):
    for name in ("channels.png", "channels-faces.png"):
        assert cv2.imread(str(measured[1] / name)).std() > 1


def test_the_page_says_the_same(measured):
    page = (measured[1] / "channels.md").read_text()
    assert "moods: 8 pictures, no face found in 0." in page
    assert "| bytes | tiny | - | 87.50% | 0.00 | 90.00% | 34.15 | 0.00 |" in page
    assert "tiny, twin" in page


def test_a_channel_that_hides_the_label_costs_points(bundle, write_set, tmp_path):
    """One level of red or blue tells the label, and much noise drowns it."""
    rows, pictures = [], {}
    for number in range(8):
        cool = number % 2 == 0
        flat = np.full((32, 32, 3), (129, 90, 128) if cool else (128, 90, 129), np.uint8)
        pictures[f"{number}.png"] = cv2.imencode(".png", flat)[1].tobytes()
        rows.append((f"{number}.png", "test", "cool" if cool else "warm"))
    faint = write_set(tmp_path / "faint", rows, pictures)
    clean, noise = run((bundle,), faint, tmp_path / "out", channel=("noise-90",))
    assert clean["accuracy"] == 1
    assert noise["accuracy"] < 0.9
    assert noise["lost_points"] == pytest.approx(100 * (1 - noise["accuracy"]))


def test_two_bundles_in_folders_of_one_name_are_told_apart(bundle, secret, tmp_path):
    other = tmp_path / "again" / bundle.name
    shutil.copytree(bundle, other)
    passages = run((bundle, other), secret, tmp_path / "out", channel=())
    assert [passage["system"] for passage in passages] == [str(bundle), str(other)]


def test_a_checkpoint_is_called_by_its_run(trained_run, secret, tmp_path):
    options = {"channel": (), "attribute": "mood", "labels": ("disc", "square")}
    (passage,) = run((trained_run / CHECKPOINT_NAME,), secret, tmp_path, **options)
    assert passage["system"] == trained_run.name


def test_a_system_whose_path_is_no_text_is_shown_with_escapes(bundle, secret, tmp_path):
    system = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(bundle, system)
    except OSError:
        pytest.skip("this file system holds names in UTF-8 only")
    (passage,) = run((system,), secret, tmp_path / "out", channel=())
    assert passage["system"] == r"caf\udce9"
    assert cv2.imread(str(tmp_path / "out" / "channels.png")).std() > 1


def test_a_name_of_no_channel_is_refused_before_anything_is_measured(secret, tmp_path):
    with pytest.raises(ConfigurationError, match="'mp3' names no channel"):
        run((tmp_path / "nowhere",), secret, tmp_path / "out", channel=("mp3",))


def test_no_bundle_is_refused(secret, tmp_path):
    with pytest.raises(BundleError, match="is not there"):
        run((tmp_path / "nowhere",), secret, tmp_path / "out")


def test_results_that_cannot_be_written_are_an_error(bundle, secret, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="nothing can be written to"):
        run((bundle,), secret, tmp_path / "file" / "out", channel=())


def test_the_command_measures_channels(bundle, secret, tmp_path, capsys):
    options = ["--no-align", "--channel", "jpeg-50", "--output", str(tmp_path / "out")]
    main(["evaluate", "channels", str(bundle), "--secret", str(secret), *options])
    assert "jpeg-50" in capsys.readouterr().out
    assert (tmp_path / "out" / "channels-faces.png").is_file()


def test_a_page_of_two_sources():
    one = Passage("faces", "half", "a", 10, 1, None, 0.5, 0.25, 1.5, 20.0, 0.5, 0.75)
    two = replace(one, source="heads", channel="jpeg-75", kilobytes=3.21, lost_points=-1.0)
    page = to_markdown(Channels((one, two)))
    assert page[0] == "faces: 10 pictures, no face found in 1."
    assert "| half | a | - | 50.00% | 1.50 | 25.00% | 20.00 | 0.50 | 0.750 |" in page
    assert "| jpeg-75 | a | 3.2 | 50.00% | -1.00 | 25.00% | 20.00 | 0.50 | 0.750 |" in page
    assert page.index("heads: 10 pictures, no face found in 1.") > 4
