from __future__ import annotations

import json

import cv2
import pytest

from dtir_sdk.errors import ConfigurationError, DataError
from dtir_train.cli import main
from dtir_train.evaluation.attributes import attributes
from dtir_train.evaluation.subject import Setting

TWO = ("Warm", "Bright")


def run(bundle, people, output, names=TWO, **options) -> dict:
    setting = Setting((str(people),), bundle, align=False, output=output)
    attributes(setting, attributes=names, preset="tiny", **options)
    return json.loads((output / "attributes.json").read_text())


@pytest.fixture(scope="module")
def measured(bundle, people, tmp_path_factory):
    output = tmp_path_factory.mktemp("attributes")
    return run(bundle, people, output, epochs=80), output


def test_what_is_in_the_cartoon_is_read_from_it(measured):
    document = measured[0]
    assert [one["attribute"] for one in document["attributes"]] == list(TWO)
    for one in document["attributes"]:
        for kind in ("cartoon", "photo"):
            assert one[f"{kind}_accuracy"] > 0.9
            assert one[f"{kind}_balanced_accuracy"] == pytest.approx(one[f"{kind}_accuracy"])
            assert one[f"{kind}_auc"] > 0.95
        assert one["majority"] == 0.5
        lost = 100 * (one["photo_accuracy"] - one["cartoon_accuracy"])
        assert one["lost_points"] == pytest.approx(lost)
    assert (document["training_pictures"], document["test_pictures"]) == (43, 16)


def test_the_mean_is_over_the_attributes(measured):
    document = measured[0]
    for name, value in document["mean"].items():
        if name != "attribute":
            values = [one[name] for one in document["attributes"]]
            assert value == pytest.approx(sum(values) / 2)


def test_nothing_is_read_from_cartoons_that_hold_nothing(blank_bundle, people, tmp_path):
    document = run(blank_bundle, people, tmp_path, epochs=80)
    for one in document["attributes"]:
        assert one["cartoon_balanced_accuracy"] == 0.5
        assert one["cartoon_auc"] == 0.5
        assert one["photo_balanced_accuracy"] > 0.9
        assert one["lost_points"] > 40


def test_the_page_and_the_picture(measured):
    document, output = measured
    page = (output / "attributes.md").read_text()
    assert f"| Warm | {document['attributes'][0]['cartoon_accuracy']:.2%} |" in page
    assert "trained on 43 pictures (seed 0) and tested on 16; no face was found in 0 more" in page
    assert cv2.imread(str(output / "attributes.png")).std() > 1


def test_squeezed_pictures_are_stretched(bundle, people, tmp_path):
    document = run(bundle, people, tmp_path, epochs=1, original_size=(48, 64))
    assert document["original_size"] == [48, 64]
    assert "stretched to 48 x 64" in (tmp_path / "attributes.md").read_text()


def test_an_attribute_that_all_test_pictures_share_is_refused(bundle, write_set, noisy, tmp_path):
    rows = [(f"{n}.png", "test" if n > 5 else "train", str(int(n < 5)), "0") for n in range(8)]
    pictures = {row[0]: noisy((90, 90, 90), n) for n, row in enumerate(rows)}
    source = write_set(tmp_path / "people", rows, pictures, ("Bald", "Warm"))
    with pytest.raises(DataError, match="Bald is the same in every test picture: name others"):
        run(bundle, source, tmp_path / "out", names=("Bald",))


def test_a_column_that_is_not_there_is_refused(bundle, people, tmp_path):
    with pytest.raises(DataError, match="has no column `Bald`"):
        run(bundle, people, tmp_path, names=("Warm", "Bald"))


@pytest.mark.parametrize(("names", "epochs"), [((), 1), (TWO, 0), (TWO, -1)])
def test_options_that_train_nothing_are_refused(bundle, people, tmp_path, names, epochs):
    with pytest.raises(
        ConfigurationError, match=r"needs names of columns|epochs is .*: it must be above 0"
    ):
        run(bundle, people, tmp_path, names=names, epochs=epochs)


def test_the_command_measures_attributes(bundle, people, tmp_path, capsys):
    options = ["--no-align", "--preset", "tiny", "--epochs", "1", "--attributes", "warm"]
    paths = ["--secret", str(people), "--output", str(tmp_path)]
    main(["evaluate", "attributes", str(bundle), *paths, *options])
    assert "warm" in capsys.readouterr().out
    assert (tmp_path / "attributes.json").is_file()
