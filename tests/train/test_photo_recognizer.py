"""`dtir-train fit-recognizer`: a recognizer of photos alone."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from dtir_sdk.errors import ConfigurationError, DataError, OutputError
from dtir_train.checkpoint import CHECKPOINT_NAME, load_checkpoint, load_recognizer
from dtir_train.classifier import predict
from dtir_train.cli import main
from dtir_train.configuration import PRESETS, Data
from dtir_train.datasets import load_secret
from dtir_train.datasets.batches import photos_of
from dtir_train.evaluation.identities import load_people
from dtir_train.execution import Execution
from dtir_train.photo_recognizer import fit_recognizer
from dtir_train.run_folder import write_configuration
from dtir_train.training import resume
from dtir_train.unfinished import TRAINING_NAME


def fit(people: Path, run: Path, **options) -> None:
    values = {"pretraining": (), "epochs": 1, "preset": "tiny", "align": False} | options
    fit_recognizer((str(people),), run=run, **values)


def right(run: Path, people: Path, attribute: str) -> float:
    """Share of the test photos that a recognizer reads right."""
    data = Data((str(people),), attribute=attribute, align=False)
    photos, labels = photos_of(load_secret(data, 32, "test"), np.arange(16))
    return float((predict(load_recognizer(run).network, photos) == labels).float().mean())


def test_the_command_leaves_a_recognizer_of_photos(people, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--epochs=40", "--pretraining-epochs=5", "--preset=tiny", "--no-align", "--seed=3"]
    columns = ["--pretraining", "warm", "bright"]
    main(["fit-recognizer", str(run), "--secret", str(people), *columns, *options])
    assert {file.name for file in run.iterdir()} == {CHECKPOINT_NAME, ".lock"}
    trained = load_recognizer(run)
    assert trained.labels == ("ann", "bob", "cid", "dot")
    assert not trained.network.training
    assert not any(parameter.requires_grad for parameter in trained.network.parameters())
    configuration = trained.configuration
    assert configuration.networks == PRESETS["tiny"].networks
    assert (configuration.recipe.epochs, configuration.seed) == (40, 3)
    data = configuration.data
    assert (data.secret, data.attribute, data.align) == ((str(people),), "identity", False)
    assert right(run, people, "identity") > 0.8
    held_out = load_secret(data, 32, "validation")
    photos, labels = photos_of(held_out, np.arange(len(held_out)))
    share = float((predict(trained.network, photos) == labels).float().mean())
    line = f"{run}: reads 4 labels from photos, {share:.2%} of {len(labels)} that were held out"
    assert line in capsys.readouterr().out


def test_test_pictures_are_not_looked_at(people, tmp_path, monkeypatch, capsys):
    load = load_secret

    def without_tests(data, size, split):
        assert split == "train"
        return load(data, size, split)

    monkeypatch.setattr("dtir_train.evaluation.identities.load_secret", without_tests)
    fit(people, tmp_path / "run", validation=0.0)
    assert capsys.readouterr().out.endswith("run: reads 4 labels from photos\n")


def test_another_column_is_read_from_as_few_photos_as_asked_for(people, tmp_path):
    fit(people, tmp_path, attribute="mood", epochs=40, limit=32)
    trained = load_recognizer(tmp_path)
    assert (trained.labels, trained.configuration.data.limit) == (("cool", "warm"), 32)
    assert right(tmp_path, people, "mood") > 0.8


def test_the_same_seed_gives_the_same_recognizer(people, tmp_path, same):
    for run, seed in (("one", 1), ("again", 1), ("other", 2)):
        fit(people, tmp_path / run, seed=seed)
    same(tmp_path / "one", tmp_path / "again")
    one, other = (load_checkpoint(tmp_path / run).tensors["recognizer"] for run in ("one", "other"))
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


def test_what_is_learned_first_is_where_it_starts(people, tmp_path):
    for run, columns in (("plain", ()), ("first", ("warm", "bright"))):
        fit(people, tmp_path / run, pretraining=columns, pretraining_epochs=3)
    plain, first = (load_recognizer(tmp_path / run) for run in ("plain", "first"))
    assert plain.labels == first.labels
    assert not torch.allclose(plain.network.conv1.weight, first.network.conv1.weight, atol=1e-3)


@pytest.mark.parametrize("saves", [1, 3, 4])
def test_what_was_stopped_goes_on_exactly(people, tmp_path, same, stopping, saves):
    options = {"pretraining": ("warm", "bright"), "pretraining_epochs": 2, "epochs": 2}
    fit(people, tmp_path / "whole", **options)
    with stopping(saves), pytest.raises(KeyboardInterrupt):
        fit(people, tmp_path / "stopped", **options)
    assert not (tmp_path / "stopped" / CHECKPOINT_NAME).exists()
    with pytest.raises(ConfigurationError, match=r"with other options, .* name another folder"):
        fit(people, tmp_path / "stopped", **options | {"seed": 5})
    fit(people, tmp_path / "stopped", **options)
    same(tmp_path / "whole", tmp_path / "stopped")
    assert not list((tmp_path / "stopped").glob("unfinished*"))


def test_told_to_stop_it_keeps_the_step_and_goes_on_exactly(people, tmp_path, same, monkeypatch):
    options = {"pretraining": ("warm", "bright"), "pretraining_epochs": 2, "epochs": 2}
    fit(people, tmp_path / "whole", **options)
    loss, calls = functional.cross_entropy, []

    def told(*arguments, **settings):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(*arguments, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(functional, "cross_entropy", told)
        with pytest.raises(KeyboardInterrupt):
            fit(people, tmp_path / "stopped", **options)
    assert len(calls) == 2
    assert load_checkpoint(tmp_path / "stopped" / TRAINING_NAME).step == 2
    fit(people, tmp_path / "stopped", **options)
    same(tmp_path / "whole", tmp_path / "stopped")


def test_it_is_no_run_to_resume(people, tmp_path, stopping):
    options = {"pretraining": ("warm", "bright"), "pretraining_epochs": 2, "epochs": 2}
    for saves in (1, 3):
        with stopping(saves), pytest.raises(KeyboardInterrupt):
            fit(people, tmp_path / str(saves), **options)
        with pytest.raises(ConfigurationError, match=r"`dtir-train fit-recognizer`: the same comm"):
            resume(tmp_path / str(saves), Execution())
    fit(people, tmp_path / "1", **options)
    with pytest.raises(ConfigurationError, match=r"`dtir-train fit-recognizer` trained, to its e"):
        resume(tmp_path / "1", Execution())


def test_left_and_right_may_differ(people, tmp_path):
    options = {"pretraining": (), "epochs": 1, "flip": False}
    fit(people, tmp_path / "run", **options)
    assert not load_recognizer(tmp_path / "run").configuration.data.flip


@pytest.fixture
def no_training(monkeypatch) -> None:
    def train(*_):
        raise AssertionError("trained before all was known to be usable")

    monkeypatch.setattr("dtir_train.photo_recognizer.train_on_photos", train)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pretraining": ("tall",)}, DataError, "no column `tall`"),
        ({"pretraining": ("mood",)}, DataError, "name others with --pretraining"),
        ({"attribute": "age"}, DataError, "no column `age`"),
        ({"epochs": 0}, ConfigurationError, "epochs is 0: it must be above 0"),
        ({"epochs": math.inf}, ConfigurationError, "epochs is inf"),
        ({"epochs": math.nan}, ConfigurationError, "epochs is nan"),
        ({"pretraining_epochs": 0}, ConfigurationError, "pretraining_epochs is 0"),
        ({"seed": -1}, ConfigurationError, "seed is -1"),
        ({"limit": 0}, ConfigurationError, "limit is 0"),
    ],
)
def test_what_does_not_fit_is_refused(people, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        fit(people, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_training")
def test_folders_have_no_columns(tmp_path, noisy):
    for folder in ("0", "1"):
        (tmp_path / "faces" / folder).mkdir(parents=True)
        for number in range(8):
            picture = noisy((100, 100, 100), number)
            (tmp_path / "faces" / folder / f"{number}.png").write_bytes(picture)
    with pytest.raises(DataError, match=r"folders are the labels, and there is no column Tall: na"):
        fit(tmp_path / "faces", tmp_path / "run", pretraining=("Tall",))


@pytest.mark.usefixtures("no_training")
def test_no_source_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="at least one source"):
        fit_recognizer((), run=tmp_path, preset="tiny")


@pytest.mark.usefixtures("no_training")
def test_a_folder_that_holds_a_checkpoint_is_refused(people, tmp_path, capsys):
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"hours of training")
    with pytest.raises(SystemExit) as left:
        main(["fit-recognizer", str(tmp_path), f"--secret={people}", "--preset=tiny"])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path} holds a checkpoint already: name another folder" in line
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == b"hours of training"


def test_what_another_process_trained_meanwhile_is_not_overwritten(people, tmp_path, monkeypatch):
    def load(*arguments):
        loaded = load_people(*arguments)
        (tmp_path / CHECKPOINT_NAME).write_bytes(b"hours of training")
        return loaded

    monkeypatch.setattr("dtir_train.photo_recognizer.load_people", load)
    with pytest.raises(ConfigurationError, match="holds a checkpoint already"):
        fit(people, tmp_path)
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == b"hours of training"


@pytest.mark.usefixtures("no_training")
def test_a_folder_where_a_run_began_is_refused(people, tmp_path):
    write_configuration(tmp_path / "run", PRESETS["tiny"])
    with pytest.raises(ConfigurationError, match="holds a run already"):
        fit(people, tmp_path / "run")


def test_a_folder_that_cannot_be_written_is_an_error(people, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        fit(people, tmp_path / "file" / "run")
