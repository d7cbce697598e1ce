from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dtir_export.card import model_card, read_object
from dtir_sdk.bundle import Bundle, default_folder
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.manifest import TrainingData
from dtir_train.checkpoint import TrainedNetworks
from dtir_train.configuration import Configuration, Data
from dtir_train.datasets.decoded import entries_of, load_unlabelled
from dtir_train.datasets.sources import open_source
from dtir_train.run_folder import write_configuration


def test_default_is_what_the_run_tells(networks: TrainedNetworks) -> None:
    card = model_card(networks, None)
    assert card.attribute == "shape"
    assert card.training_data == (TrainingData("pictures drawn by dtir", "none needed", 512),)
    assert "32x32" in card.intended_use
    assert card.limits


def test_default_counts_pictures_and_hides_folders(
    networks: TrainedNetworks, tmp_path: Path
) -> None:
    for shape in ("disc", "square"):
        (tmp_path / "faces" / shape).mkdir(parents=True)
        for index in range(20):
            (tmp_path / "faces" / shape / f"{index}.png").touch()
    entries = open_source(tmp_path / "faces", "shape").entries
    trained_on = len(entries_of(entries, networks.configuration.data, "train"))
    data = dataclasses.replace(
        networks.configuration.data, secret=(str(tmp_path / "faces"), "/gone/people")
    )
    configuration = dataclasses.replace(networks.configuration, data=data)
    card = model_card(dataclasses.replace(networks, configuration=configuration), None)
    faces, gone, drawn = card.training_data
    assert (faces.name, faces.pictures) == ("faces", trained_on)
    assert 20 < trained_on < 40
    assert "not stated" in faces.licence
    assert gone.name == "people (number of pictures not known)"
    assert drawn.licence == "none needed"
    assert str(tmp_path) not in str(card)


def test_default_counts_the_pictures_that_training_takes(
    networks: TrainedNetworks, tmp_path: Path
) -> None:
    """Not those that are held out for validation, nor those beyond the limit."""
    folder = tmp_path / "caf\udce9"
    for shape in ("disc", "square"):
        (folder / shape).mkdir(parents=True)
        for index in range(100):
            picture = np.full((40, 40, 3), index, np.uint8)
            (folder / shape / f"{index}.png").write_bytes(cv2.imencode(".png", picture)[1])
    for limit in (None, 20):
        data = Data((str(folder), "generated"), ("generated",), align=False, limit=limit)
        configuration = dataclasses.replace(networks.configuration, data=data)
        card = model_card(dataclasses.replace(networks, configuration=configuration), None)
        folder_counted, drawn = card.training_data
        assert folder_counted.name == "caf\ufffd"
        total = len(load_unlabelled(data, 32, "train"))
        assert folder_counted.pictures + drawn.pictures == total


def test_default_does_not_count_what_labels_leave_out(
    networks: TrainedNetworks, tmp_path: Path
) -> None:
    """Pictures beside class folders, and below them, which a relabelled run was taught on."""
    names = [f"{shape}/{number}.png" for shape in ("disc", "square") for number in range(20)]
    beside = [f"{number}.png" for number in range(50)] + [f"disc/more/{n}.png" for n in range(50)]
    for name in names + beside:
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / name).touch()
    faces = (str(tmp_path / "faces"),)
    own = networks.configuration
    for teacher, target, attribute in (
        (None, ("generated",), "shape"),
        # `fit-recognizer` fills the target's place, too.
        (None, faces, "shape"),
        ("/gone/teacher", faces, None),
    ):
        data = dataclasses.replace(own.data, secret=faces, target=target, attribute="shape")
        configuration = dataclasses.replace(own, data=data, teacher=teacher)
        card = model_card(dataclasses.replace(networks, configuration=configuration), None)
        entries = open_source(tmp_path / "faces", attribute).entries
        assert card.training_data[0].pictures == len(entries_of(entries, data, "train"))
        assert (card.training_data[0].pictures > 40) == (attribute is None)


def write_run(folder: Path, configuration: Configuration) -> Path:
    write_configuration(folder, configuration)
    return folder


def test_default_tells_what_it_started_and_learned_from_saw(
    networks: TrainedNetworks, tmp_path: Path
) -> None:
    own = networks.configuration
    before = write_run(
        tmp_path / "before",
        dataclasses.replace(own, data=Data(("/gone/old",), ("/gone/drawings",))),
    )
    configuration = dataclasses.replace(
        own,
        data=Data(("/gone/new",), ("/gone/drawings",), unlabelled=("/gone/more",)),
        start_from=str(before),
        teacher=str(default_folder()),
    )
    card = model_card(dataclasses.replace(networks, configuration=configuration), None)
    names = [data.name.partition(" (")[0] for data in card.training_data]
    bundled = Bundle.open().manifest.training_data
    assert names[:4] == ["new", "more", "drawings", "old"]
    assert card.training_data[4:] == bundled
    missing = dataclasses.replace(configuration, start_from="/gone/run", teacher=None)
    card = model_card(dataclasses.replace(networks, configuration=missing), None)
    assert card.training_data[-1].name == "what run was trained on (not known)"
    assert "/gone" not in str(card)


def test_runs_that_start_from_each_other_are_told_once(
    networks: TrainedNetworks, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, start in ((one, other), (other, one)):
        data = Data((str(tmp_path / folder.name / "faces"),), ("generated",))
        own = dataclasses.replace(networks.configuration, data=data, start_from=str(start))
        write_run(folder, own)
    card = model_card(dataclasses.replace(networks, configuration=own), None)
    assert len(card.training_data) == 3, "faces of either, which are not the same, and drawings"


def test_file_overrides_what_it_names(networks: TrainedNetworks, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    sets = [{"name": "Shapes", "licence": "CC0", "pictures": 9}]
    path.write_text(json.dumps({"attribute": "form", "training_data": sets, "limits": ["Few."]}))
    card = model_card(networks, path)
    assert card.attribute == "form"
    assert card.training_data == (TrainingData("Shapes", "CC0", 9),)
    assert card.limits == ("Few.",)
    assert card.intended_use == model_card(networks, None).intended_use


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not well-formed"),
        ('{"a": NaN}', "not well-formed"),
        ('{"attribute": 1e999}', "not well-formed"),
        (r'{"attribute": "caf\udce9"}', "not well-formed"),
        ("[]", "JSON object"),
        ('{"purpose": "x"}', "unknown field 'purpose'"),
        ('{"attribute": " "}', "attribute must be a text"),
        ('{"intended_use": 3}', "intended_use must be a text"),
        ('{"limits": "none"}', "limits must be a list"),
        ('{"training_data": {}}', "training_data must be a list"),
        ('{"training_data": [{"name": "a"}]}', "training_data must be a list"),
        ('{"training_data": [{"name": "", "licence": "b", "pictures": 1}]}', "texts"),
        ('{"training_data": [{"name": "a", "licence": "b", "pictures": -1}]}', "0 or more"),
    ],
)
def test_bad_file(text: str, problem: str, networks: TrainedNetworks, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        model_card(networks, path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="could not be read"):
        read_object(tmp_path / "missing.json")
