from __future__ import annotations

import json
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from dtir_sdk.errors import ConfigurationError, DataError
from dtir_train.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint, save_checkpoint
from dtir_train.cli import main
from dtir_train.evaluation.identities import IdentityTraining
from dtir_train.evaluation.subject import Subject
from dtir_train.evaluation.table_2 import table_2
from dtir_train.photo_recognizer import fit_recognizer


def run(bundle, people, output, baseline_epochs=0.0, **identity) -> dict:
    training = IdentityTraining(
        (str(people),), pretraining=("warm", "bright"), pretraining_epochs=5, **identity
    )
    subject = Subject((str(people),), bundle, align=False, output=output)
    table_2(subject, training, preset="tiny", baseline_epochs=baseline_epochs)
    return json.loads((output / "table-2.json").read_text())


@pytest.fixture(scope="module")
def measured(bundle, people, tmp_path_factory):
    output = tmp_path_factory.mktemp("table-2")
    return run(bundle, people, output, 40, identity_epochs=40, taught_epochs=20, repeats=2), output


def test_the_attribute_is_read_by_the_system_and_from_photos(measured):
    task = measured[0]["tasks"][0]
    assert (task["label"], task["classes"]) == ("mood", 2)
    assert task["recognition"]["source"] == "people"
    assert task["recognition"]["pictures"] == 16
    assert task["recognition"]["accuracy"] == 1
    assert task["recognition"]["photo_accuracy"] > 0.9
    assert task["recognition"]["majority"] == 0.5


def test_identities_are_read_from_cartoons_and_from_photos(measured):
    document = measured[0]
    task = document["tasks"][1]
    assert (task["label"], task["classes"]) == ("identity", 4)
    assert task["recognition"]["majority"] == 0.25
    assert task["recognition"]["accuracy"] > 0.8
    assert task["recognition"]["photo_accuracy"] > 0.8
    assert document["seeds"] == [0, 1]


def test_the_one_on_cartoons_is_taught_by_the_one_on_photos(measured):
    document, output = measured
    alone, taught = document["tasks"][1:]
    assert (taught["label"], taught["classes"]) == ("identity, taught", 4)
    assert taught["recognition"]["accuracy"] > 0.8
    assert taught["recognition"]["photo_accuracy"] == alone["recognition"]["photo_accuracy"]
    assert document["taught_epochs"] == 20
    assert "for 20 passes over the training photos" in (output / "table-2.md").read_text()


def test_a_teacher_does_not_tell_what_cartoons_do_not_hold(blank_bundle, people, tmp_path):
    tasks = run(blank_bundle, people, tmp_path, identity_epochs=20, taught_epochs=2)["tasks"]
    assert tasks[2]["recognition"]["photo_accuracy"] > 0.5
    assert tasks[2]["recognition"]["accuracy"] == 0.25


def test_nothing_is_read_from_cartoons_without_content(blank_bundle, people, tmp_path):
    task = run(blank_bundle, people, tmp_path, identity_epochs=2)["tasks"][1]
    assert task["recognition"]["accuracy"] == 0.25
    assert task["recognition"]["balanced_accuracy"] == 0.25


def test_the_page_and_the_picture(measured):
    document, output = measured
    page = (output / "table-2.md").read_text()
    photo = document["tasks"][0]["recognition"]["photo_accuracy"]
    lost = f"{100 * (photo - 1):.2f}"
    assert f"| mood | 2 | people | 16 | 0 | 100.00% | {photo:.2%} | {lost} |" in page
    assert "(seeds 0, 1)" in page
    assert cv2.imread(str(output / "table-2.png")).std() > 0


def test_without_identities_and_baseline(bundle, secret, tmp_path):
    subject = Subject((str(secret),), bundle, align=False, output=tmp_path)
    table_2(subject, IdentityTraining(), baseline_epochs=0)
    document = json.loads((tmp_path / "table-2.json").read_text())
    assert len(document["tasks"]) == 1
    assert document["seeds"] == []
    page = (tmp_path / "table-2.md").read_text()
    assert "| mood | 2 | moods | 8 | 0 | 87.50% | - | - | 90.00% | - | 62.50% |" in page


@pytest.fixture
def no_training(monkeypatch) -> None:
    def train(*_):
        raise AssertionError("trained before all pictures were known to be usable")

    monkeypatch.setattr("dtir_train.evaluation.table_2.photo_baseline", train)


@pytest.fixture(scope="module")
def of_photos(people, tmp_path_factory):
    """A recognizer that reads moods from photos; do not change it."""
    folder = tmp_path_factory.mktemp("recognizers") / "moods-of-photos"
    options = {"pretraining": (), "epochs": 40, "preset": "tiny", "align": False}
    fit_recognizer((str(people),), run=folder, attribute="mood", **options)
    save_of(load_checkpoint(folder), folder, align=True)
    return folder


def save_of(recognizer: Checkpoint, folder: Path, align: bool) -> None:
    """Saves it as one of faces that were cut out, as the bundle is, or of whole pictures."""
    configuration = recognizer.configuration
    configuration = replace(configuration, data=replace(configuration.data, align=align))
    save_checkpoint(replace(recognizer, configuration=configuration), folder / CHECKPOINT_NAME)


@pytest.mark.usefixtures("no_training")
def test_photos_are_read_by_a_recognizer_that_was_trained_before(
    bundle, people, of_photos, tmp_path, capsys
):
    paths = ["--secret", str(people), "--output", str(tmp_path), "--recognizer", str(of_photos)]
    main(["evaluate", "table-2", str(bundle), *paths, "--no-align"])
    document = json.loads((tmp_path / "table-2.json").read_text())
    assert (document["recognizer"], document["baseline"]["epochs"]) == ("moods-of-photos", 0)
    (task,) = document["tasks"]
    photo = task["recognition"]["photo_accuracy"]
    assert photo > 0.9
    page = (tmp_path / "table-2.md").read_text()
    assert f"| mood | 2 | people | 16 | 0 | 100.00% | {photo:.2%} |" in page
    assert "From photo: by the recognizer `moods-of-photos`, trained before." in page
    assert "passes" not in page
    assert "moods-of-photos" in capsys.readouterr().out


@pytest.mark.usefixtures("no_training")
def test_a_preset_for_no_network_is_refused(bundle, people, of_photos, tmp_path):
    subject = Subject((str(people),), bundle, align=False, output=tmp_path)
    with pytest.raises(ConfigurationError, match="leave one of the two out"):
        table_2(subject, IdentityTraining(), preset="tiny", recognizer=of_photos)


def test_without_such_a_recognizer_none_is_named(measured):
    document, output = measured
    assert document["recognizer"] is None
    page = (output / "table-2.md").read_text()
    # A bundle does not hold its sizes.
    assert "From photo: by the recognizer of `tiny`, trained on the photos for 40 passes." in page
    assert "trained before" not in page


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("labels", "size", "message"),
    [
        (("dark", "light"), 32, r"reads 2 labels \(dark, light\).* tiny 2 \(cool, warm\)"),
        (("warm", "cool"), 32, r"reads 2 labels \(warm, cool\)"),
        (("cool", "warm"), 64, "from 64x64 pixels, .*from 32x32: choose two of the same task"),
    ],
)
def test_a_recognizer_of_another_task_is_refused(
    bundle, secret, of_photos, tmp_path, labels, size, message
):
    saved = load_checkpoint(of_photos)
    sizes = replace(saved.configuration.networks, image_size=size)
    configuration = replace(saved.configuration, networks=sizes)
    other = replace(saved, labels=labels, configuration=configuration)
    save_checkpoint(other, tmp_path / "other" / CHECKPOINT_NAME)
    subject = Subject((str(secret),), bundle, align=False, output=tmp_path / "output")
    with pytest.raises(ConfigurationError, match=message):
        table_2(subject, IdentityTraining(), recognizer=tmp_path / "other")
    assert not (tmp_path / "output").exists()


@pytest.mark.usefixtures("no_training")
def test_a_recognizer_of_whole_pictures_does_not_read_faces(bundle, secret, of_photos, tmp_path):
    save_of(load_checkpoint(of_photos), tmp_path / "whole", align=False)
    subject = Subject((str(secret),), bundle, align=False, output=tmp_path / "output")
    message = "whole was trained on whole pictures, tiny on faces that are cut out: choose two of"
    with pytest.raises(ConfigurationError, match=message):
        table_2(subject, IdentityTraining(), recognizer=tmp_path / "whole")
    assert not (tmp_path / "output").exists()


@pytest.mark.usefixtures("no_training")
def test_a_system_is_no_recognizer_of_photos(bundle, secret, trained_run, tmp_path):
    subject = Subject((str(secret),), bundle, align=False, output=tmp_path)
    for path, message in ((trained_run, "a system, whose"), (tmp_path, "no checkpoint there")):
        with pytest.raises(ConfigurationError, match=message):
            table_2(subject, IdentityTraining(), recognizer=path)


@pytest.mark.usefixtures("no_training")
def test_a_folder_a_person_has_no_columns_to_learn_first(bundle, secret, noisy, tmp_path):
    for person, colour in (("ann", (200, 90, 60)), ("bob", (60, 90, 200))):
        folder = tmp_path / "people" / person
        folder.mkdir(parents=True)
        for number in range(20):
            (folder / f"{number}.png").write_bytes(noisy(colour, number))
    subject = Subject((str(secret),), bundle, align=False, output=tmp_path)
    with pytest.raises(DataError, match=r"folders are the labels, .* name others with --pretrain"):
        table_2(subject, IdentityTraining((str(tmp_path / "people"),)), preset="tiny")


@pytest.mark.usefixtures("no_training")
def test_no_such_column_to_learn_first(bundle, secret, tmp_path):
    training = IdentityTraining((str(secret),), identity_column="mood", pretraining=("tall",))
    with pytest.raises(DataError, match="no column `tall`"):
        table_2(
            Subject((str(secret),), bundle, align=False, output=tmp_path),
            training,
        )


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [
        ("identity_epochs", 0, "above 0"),
        ("pretraining_epochs", math.nan, "above 0"),
        ("repeats", 0, "1 or more"),
        ("taught_epochs", -1, "0 or more"),
        ("taught_epochs", math.inf, "0 or more"),
    ],
)
def test_no_training_is_refused(option, value, least):
    with pytest.raises(ConfigurationError, match=f"{option} is {value}: it must be {least}"):
        IdentityTraining(**{option: value})


@pytest.mark.parametrize(
    "option", ["--taught-epochs=5", "--repeats=3", "--pretraining", "--identity-column=who"]
)
def test_how_identities_are_read_is_no_option_without_people(bundle, secret, option, capsys):
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "table-2", str(bundle), "--secret", str(secret), option])
    assert left.value.code == 2
    assert "name people with --identity" in capsys.readouterr().err


def test_paths_that_are_no_text_are_shown_with_escapes(bundle, secret, tmp_path, monkeypatch):
    """On the page, in the picture and in the command that is told."""
    source = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(secret, source)
    except OSError:
        pytest.skip("this file system holds names in UTF-8 only")
    paths = ["--secret", str(source), "--output", str(tmp_path / "out")]
    words = ["evaluate", "table-2", str(bundle), *paths, "--no-align", "--baseline-epochs", "0"]
    monkeypatch.setattr(sys, "argv", ["dtir-train", *words])
    main()
    page = (tmp_path / "out" / "table-2.md").read_text()
    assert r"| mood | 2 | caf\udce9 | 8 |" in page
    assert rf"--secret {tmp_path}/caf\udce9" in page.replace("'", "")
    assert cv2.imread(str(tmp_path / "out" / "table-2.png")).std() > 0


def test_the_command(bundle, secret, tmp_path, capsys):
    options = ["--no-align", "--baseline-epochs", "0"]
    paths = ["--secret", str(secret), "--output", str(tmp_path)]
    main(["evaluate", "table-2", str(bundle), *paths, *options])
    assert "moods" in capsys.readouterr().out
