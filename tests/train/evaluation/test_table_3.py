from __future__ import annotations

import json

import cv2
import pytest

from dtir_sdk.errors import ConfigurationError, DataError
from dtir_train.cli import main
from dtir_train.evaluation.subject import Setting
from dtir_train.evaluation.table_3 import PAPER, table_3


def run(bundle, people, output, attributes=("Warm", "Bright"), **options) -> dict:
    setting = Setting((str(people),), bundle, align=False, output=output)
    table_3(setting, attributes=attributes, preset="tiny", **options)
    return json.loads((output / "table-3.json").read_text())


@pytest.fixture(scope="module")
def measured(bundle, people, tmp_path_factory):
    output = tmp_path_factory.mktemp("table-3")
    return run(bundle, people, output, epochs=80, repeats=2), output


def test_attributes_are_read_from_photos_and_restored_photos(measured):
    document = measured[0]
    warm, bright = document["attributes"]
    assert (warm["attribute"], bright["attribute"]) == ("Warm", "Bright")
    for one in (warm, bright):
        assert one["photo_accuracy"] > 0.9
        # Five levels darker.
        assert one["restored_accuracy"] > 0.9
        assert one["majority"] == 0.5
        lost = 100 * (one["photo_accuracy"] - one["restored_accuracy"])
        assert one["lost_points"] == pytest.approx(lost)
    assert document["seeds"] == [0, 1]
    assert document["test_pictures"] == 16
    assert document["restoration"]["psnr"] == pytest.approx(34.151, abs=1e-3)


def test_the_mean_is_over_the_attributes(measured):
    document = measured[0]
    for name in ("photo_accuracy", "restored_accuracy", "lost_points", "photo_balanced_accuracy"):
        values = [one[name] for one in document["attributes"]]
        assert document["mean"][name] == pytest.approx(sum(values) / 2)


def test_what_was_not_restored_is_not_read(blank_bundle, people, tmp_path):
    document = run(blank_bundle, people, tmp_path, epochs=80)
    # All restored photos are the same grey, so each network says one thing of all of them.
    for one in document["attributes"]:
        assert one["photo_accuracy"] > 0.9
        assert one["restored_accuracy"] == 0.5
        assert one["restored_balanced_accuracy"] == 0.5


def test_the_page_and_the_picture(measured):
    document, output = measured
    page = (output / "table-3.md").read_text()
    warm = document["attributes"][0]
    assert f"| Warm | {warm['photo_accuracy']:.2%} | {warm['restored_accuracy']:.2%} |" in page
    assert "| mean |" in page
    assert "34.15 dB" in page
    assert cv2.imread(str(output / "table-3.png")).std() > 0


@pytest.mark.parametrize("no", ["0", "-1"])
def test_the_papers_own_values_stand_beside(bundle, tmp_path, write_set, noisy, no):
    """Whether columns are of 0 and 1, or of -1 and 1 as in CelebA's lists."""
    split = ["train"] * 4 + ["test"] * 4
    rows = [(f"{n}.png", split[n], *(("1" if n % 2 else no),) * 4) for n in range(8)]
    pictures = {row[0]: noisy((100, 100, 100), n) for n, row in enumerate(rows)}
    columns = ("Male", "Bald", "Heavy_Makeup", "Attractive")
    faces = write_set(tmp_path / "faces", rows, pictures, columns)
    document = run(bundle, faces, tmp_path / "out", columns, epochs=1)
    assert [tuple(one["paper"]) for one in document["attributes"]] == list(PAPER.values())
    assert document["mean"]["paper"] == pytest.approx([90.2, 89.45])
    assert document["mean"]["majority"] == 0.5
    page = (tmp_path / "out" / "table-3.md").read_text()
    assert "| 92.4% | 92.2% |" in page
    assert "| 90.2% | 89.5% |" in page


def test_a_column_of_more_than_two_values_is_refused(bundle, people, tmp_path):
    with pytest.raises(DataError, match="the column identity holds more than 0 and 1"):
        run(bundle, people, tmp_path, ("identity",))


def test_a_column_of_both_kinds_of_no_is_refused(bundle, tmp_path, write_set, noisy):
    split = ["train"] * 4 + ["test"] * 4
    rows = [(f"{n}.png", split[n], str(n % 3 - 1)) for n in range(8)]
    pictures = {row[0]: noisy((100, 100, 100), n) for n, row in enumerate(rows)}
    faces = write_set(tmp_path / "faces", rows, pictures, ("Bald",))
    with pytest.raises(DataError, match=r"Bald holds more than 0 and 1 \(or -1 and 1\)"):
        run(bundle, faces, tmp_path / "out", ("Bald",))


def test_an_attribute_that_never_varies_is_refused(bundle, tmp_path, write_set, noisy):
    rows = [(f"{n}.png", "test" if n >= 4 else "train", str(int(n < 2))) for n in range(8)]
    pictures = {row[0]: noisy((100, 100, 100), n) for n, row in enumerate(rows)}
    faces = write_set(tmp_path / "faces", rows, pictures, ("Bald",))
    with pytest.raises(DataError, match="Bald is the same"):
        run(bundle, faces, tmp_path / "out", ("Bald",))


@pytest.mark.parametrize("options", [{"epochs": 0}, {"repeats": 0}, {"attributes": ()}])
def test_options_that_measure_nothing_are_refused(bundle, people, tmp_path, options):
    with pytest.raises(ConfigurationError, match=r"no attributes are named|(epochs|repeats) is 0"):
        run(bundle, people, tmp_path, **options)


def test_recognizers_may_learn_from_blurred_photos(bundle, people, measured, tmp_path):
    document = run(bundle, people, tmp_path, epochs=80, repeats=2, blur=1.5)
    assert document["blur"] == 1.5
    assert all(one["photo_accuracy"] > 0.9 for one in document["attributes"])
    assert "each blurred by 0 to 1.5 pixels" in (tmp_path / "table-3.md").read_text()
    assert "blurred" not in (measured[1] / "table-3.md").read_text()


@pytest.mark.parametrize("blur", [-1.0, 5.1, float("nan")])
def test_a_blur_that_no_photo_has_is_refused(bundle, people, tmp_path, blur):
    with pytest.raises(ConfigurationError, match=f"blur is {blur:g}: it must be from 0 to 5"):
        run(bundle, people, tmp_path, blur=blur)


def test_the_command(bundle, people, tmp_path, capsys):
    options = ["--no-align", "--preset", "tiny", "--epochs", "1", "--attributes", "warm"]
    paths = ["--secret", str(people), "--output", str(tmp_path)]
    main(["evaluate", "table-3", str(bundle), *paths, *options])
    assert "warm" in capsys.readouterr().out
