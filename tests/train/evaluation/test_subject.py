from __future__ import annotations

from dataclasses import replace

import pytest

from dtir_sdk.errors import ConfigurationError
from dtir_train.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from dtir_train.configuration import Data
from dtir_train.evaluation.subject import Subject, load_tests, names_of
from dtir_train.evaluation.systems import open_system


def test_sources_are_called_by_their_files_names():
    assert names_of(("a/faces", "b/people.zip")) == ("faces", "people")


def test_sources_of_one_name_are_called_by_their_paths():
    assert names_of(("a/faces", "b/faces.zip", "c")) == ("a/faces", "b/faces.zip", "c")


@pytest.fixture
def renaming_run(trained_run, tmp_path, small):
    """The run, trained with names of its own for the classes."""
    saved = load_checkpoint(trained_run / CHECKPOINT_NAME)
    labels = ("round", "angular")
    configuration = small(data={"attribute": "mood", "labels": labels})
    save_checkpoint(
        replace(saved, configuration=configuration, labels=labels), tmp_path / CHECKPOINT_NAME
    )
    return tmp_path


def test_a_runs_own_names_of_the_classes_are_taken(renaming_run, secret):
    subject = Subject((str(secret),), renaming_run, align=False)
    with open_system(renaming_run) as system:
        assert load_tests(subject.data(system), system)["moods"].label_names == system.labels


def test_a_runs_own_way_to_vary_pictures_is_taken(trained_run, bundle, tmp_path, small):
    saved = load_checkpoint(trained_run / CHECKPOINT_NAME)
    own = {"flip": False, "jitter": 0.2, "validation": 0.3, "attribute": "mood"}
    configuration = small(data=own)
    save_checkpoint(replace(saved, configuration=configuration), tmp_path / CHECKPOINT_NAME)
    with open_system(tmp_path) as system:
        data = Subject(("faces",)).data(system, ("cartoons",))
    expected = replace(configuration.data, secret=("faces",), target=("cartoons",))
    assert data == expected
    assert not data.align, "as the run"
    with open_system(bundle) as system:
        assert Subject(("faces",), align=False).data(system) == Data(
            ("faces",), attribute="mood", align=False
        )


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_seeds_that_nothing_takes_are_refused(seed):
    with pytest.raises(ConfigurationError, match="seed is"):
        Subject(("faces",), seed=seed)


def test_a_bundles_names_of_the_classes_can_be_told(bundle, write_set, noisy, tmp_path):
    rows = [(f"{n}.png", "test", "ab"[n % 2]) for n in range(4)]
    secret = write_set(tmp_path / "s", rows, {row[0]: noisy((90, 90, 90), 0) for row in rows})
    subject = Subject((str(secret),), bundle, align=False)
    with open_system(bundle) as system:
        with pytest.raises(ConfigurationError, match="or the classes with --labels"):
            load_tests(subject.data(system), system)
        named = Subject((str(secret),), bundle, align=False, labels=("cool", "warm"))
        assert load_tests(named.data(system), system)["s"].labels.tolist() == [0, 1, 0, 1]
