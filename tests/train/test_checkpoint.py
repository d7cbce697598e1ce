from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from dtir_sdk.errors import ConfigurationError, OutputError
from dtir_train.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    load_checkpoint,
    load_recognizer,
    load_trained,
    reads_photos,
    save_checkpoint,
)
from dtir_train.configuration import PRESETS, Configuration, Data, Networks
from dtir_train.networks import Generator, Recognizer
from dtir_train.run_folder import CONFIGURATION_NAME, write_configuration

SIZES = Networks(32, 4, 1, 4, "resnet18", 4)
CONFIGURATION = Configuration(SIZES, Data(attribute="shape", align=False), seed=3)
LABELS = ("disc", "square")


def weights() -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    networks = {
        "transfer": Generator(4, 1),
        "recognizer": Recognizer(2, "resnet18", 4),
        "restorer": Generator(4, 1),
    }
    groups = {name: network.state_dict() for name, network in networks.items()}
    averaged = {
        f"averaged/{name}": {key: value + 1 for key, value in group.items()}
        for name, group in groups.items()
    }
    return {**groups, **averaged}


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint(CONFIGURATION, LABELS, 7, weights())


@pytest.fixture
def small_checkpoint() -> Checkpoint:
    tensors = {"transfer": {"a.weight": torch.arange(4.0)}, "optimizer/transfer": {}}
    return Checkpoint(CONFIGURATION, LABELS, 7, tensors)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_checkpoint_comes_back(tmp_path, checkpoint):
    path = tmp_path / "run" / CHECKPOINT_NAME
    save_checkpoint(checkpoint, path)
    read = load_checkpoint(path)
    assert (read.configuration, read.labels, read.step) == (CONFIGURATION, LABELS, 7)
    assert read.tensors.keys() == checkpoint.tensors.keys()
    for group, members in checkpoint.tensors.items():
        assert read.tensors[group].keys() == members.keys()
        for name, tensor in members.items():
            assert read.tensors[group][name].dtype == tensor.dtype
            assert torch.equal(read.tensors[group][name], tensor)


def test_a_run_is_named_by_its_folder(tmp_path, checkpoint):
    save_checkpoint(checkpoint, tmp_path / CHECKPOINT_NAME)
    assert load_checkpoint(tmp_path).step == 7


def test_tensors_in_any_memory_order_come_back(tmp_path):
    picture = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    made = Checkpoint(CONFIGURATION, LABELS, 1, {"transfer": {"weight": picture}})
    save_checkpoint(made, tmp_path / CHECKPOINT_NAME)
    assert torch.equal(load_checkpoint(tmp_path).tensors["transfer"]["weight"], picture)


def test_nothing_is_left_beside_it(tmp_path, small_checkpoint):
    save_checkpoint(small_checkpoint, tmp_path / CHECKPOINT_NAME)
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT_NAME]


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, small_checkpoint, request):
    path = tmp_path / CHECKPOINT_NAME
    save_checkpoint(small_checkpoint, path)
    request.getfixturevalue("full_disk")
    with pytest.raises(OutputError, match=r"No space left.*the one before it is kept"):
        save_checkpoint(replace(small_checkpoint, step=8), path)
    assert load_checkpoint(path).step == 7
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT_NAME]


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_at_the_first_checkpoint_leaves_nothing(tmp_path, small_checkpoint):
    with pytest.raises(OutputError, match="No space left") as caught:
        save_checkpoint(small_checkpoint, tmp_path / CHECKPOINT_NAME)
    assert "kept" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, small_checkpoint):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        save_checkpoint(small_checkpoint, tmp_path / "file" / CHECKPOINT_NAME)


def test_what_a_kill_left_of_a_save_does_no_harm(tmp_path, small_checkpoint):
    path = tmp_path / CHECKPOINT_NAME
    save_checkpoint(small_checkpoint, path)
    path.with_name(path.name + ".partial").write_bytes(path.read_bytes()[:100])
    assert load_checkpoint(tmp_path).step == 7
    save_checkpoint(replace(small_checkpoint, step=8), path)
    assert load_checkpoint(tmp_path).step == 8
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT_NAME]


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="no checkpoint there"):
        load_checkpoint(tmp_path)


def test_a_truncated_file_is_an_error(tmp_path, small_checkpoint):
    path = tmp_path / CHECKPOINT_NAME
    save_checkpoint(small_checkpoint, path)
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigurationError, match="truncated or not a checkpoint"):
            load_checkpoint(path)


def test_a_file_of_another_kind_is_an_error(tmp_path):
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(b"PK\x03\x04" + bytes(2000))
    with pytest.raises(ConfigurationError, match="not a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("metadata", [None, {"format": "dtir-checkpoint-3"}])
def test_other_peoples_safetensors_are_an_error(tmp_path, metadata):
    path = tmp_path / CHECKPOINT_NAME
    save_file({"weight": torch.zeros(2)}, path, metadata)
    with pytest.raises(ConfigurationError, match="not a checkpoint of this dtir"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("configuration", "{"),
        ("configuration", "[]"),
        ("labels", "5"),
        ("labels", "x"),
        ("step", "seven"),
        ("step", None),
    ],
)
def test_broken_metadata_is_an_error(tmp_path, name, value):
    path = tmp_path / CHECKPOINT_NAME
    metadata = {
        "format": "dtir-checkpoint-1",
        "configuration": json.dumps(CONFIGURATION.to_json()),
        "labels": "[]",
        "step": "1",
    }
    save_file({"weight": torch.zeros(2)}, path, metadata)
    assert load_checkpoint(path).step == 1
    metadata[name] = value
    save_file({"weight": torch.zeros(2)}, path, {k: v for k, v in metadata.items() if v})
    with pytest.raises(ConfigurationError):
        load_checkpoint(path)


def stored(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("part", ["tensor", "name", "shape", "step", "labels", "sha256", "none"])
def test_a_changed_checkpoint_is_an_error(tmp_path, checkpoint, part):
    path = tmp_path / CHECKPOINT_NAME
    save_checkpoint(checkpoint, path)
    tensors, metadata = stored(path)
    first = next(iter(tensors))
    if part == "tensor":
        tensors[first].view(-1)[0] += 1e-6
    elif part == "name":
        tensors["transfer/new"] = tensors.pop(first)
    elif part == "shape":
        tensors[first] = tensors[first].reshape(1, -1)
    elif part == "step":
        metadata["step"] = "8"
    elif part == "labels":
        metadata["labels"] = json.dumps(["square", "disc"])
    elif part == "sha256":
        metadata["sha256"] = "0" * 64
    else:
        del metadata["sha256"]
    save_file(tensors, path, metadata)
    with pytest.raises(ConfigurationError, match=r"damaged or changed .*SHA-256") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_from_before_the_hash_is_read(tmp_path, checkpoint):
    path = tmp_path / CHECKPOINT_NAME
    save_checkpoint(checkpoint, path)
    tensors, metadata = stored(path)
    del metadata["sha256"]
    save_file(tensors, path, metadata | {"format": "dtir-checkpoint-1"})
    assert load_checkpoint(path).step == checkpoint.step


def test_calling_itself_older_does_not_switch_the_hash_off(tmp_path, checkpoint):
    path = tmp_path / CHECKPOINT_NAME
    save_checkpoint(checkpoint, path)
    tensors, metadata = stored(path)
    tensors["averaged/transfer/" + next(iter(checkpoint.tensors["transfer"]))] += 1
    save_file(tensors, path, metadata | {"format": "dtir-checkpoint-1"})
    with pytest.raises(ConfigurationError, match=r"damaged or changed .*SHA-256"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_preset_in_a_runs_folder_is_an_error(tmp_path, checkpoint):
    save_checkpoint(checkpoint, tmp_path / CHECKPOINT_NAME)
    write_configuration(tmp_path, CONFIGURATION)
    assert load_checkpoint(tmp_path).step == 7
    write_configuration(tmp_path, PRESETS["tiny"])
    for load in (load_checkpoint, load_trained):
        with pytest.raises(ConfigurationError, match=r"another configuration .*put back"):
            load(tmp_path)


@pytest.mark.parametrize("version", [0, 2, None])
def test_a_runs_folder_of_another_version_is_an_error(tmp_path, checkpoint, version):
    save_checkpoint(checkpoint, tmp_path / CHECKPOINT_NAME)
    values = CONFIGURATION.to_json() | {"version": version}
    (tmp_path / CONFIGURATION_NAME).write_text(json.dumps(values))
    for load in (load_checkpoint, load_trained):
        with pytest.raises(ConfigurationError, match=f"version {version}, .*the dtir that wrote"):
            load(tmp_path)


@settings(max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_changed_byte_is_noticed(tmp_path_factory, place, change):
    path = tmp_path_factory.mktemp("changed") / CHECKPOINT_NAME
    made = Checkpoint(CONFIGURATION, LABELS, 7, {"transfer": {"weight": torch.zeros(2)}})
    save_checkpoint(made, path)
    stream = bytearray(path.read_bytes())
    stream[int(place * len(stream))] ^= change
    path.write_bytes(stream)
    try:
        read = load_checkpoint(path)
    except ConfigurationError as error:
        assert CHECKPOINT_NAME in str(error)
    else:
        # What JSON takes for the same: a space for another, a letter for its escape.
        assert (read.configuration, read.labels, read.step) == (CONFIGURATION, LABELS, 7)
        assert torch.equal(read.tensors["transfer"]["weight"], torch.zeros(2))


def test_trained_networks_have_the_averaged_weights(tmp_path, checkpoint):
    save_checkpoint(checkpoint, tmp_path / CHECKPOINT_NAME)
    trained = load_trained(tmp_path)
    assert (trained.configuration, trained.labels, trained.step) == (CONFIGURATION, LABELS, 7)
    for name in ("transfer", "recognizer", "restorer"):
        network = getattr(trained, name)
        assert not network.training
        expected = checkpoint.tensors[f"averaged/{name}"]
        for key, value in network.state_dict().items():
            assert torch.equal(value, expected[key]), key
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_without_averages_trained_networks_have_their_own_weights(tmp_path, checkpoint):
    own = {group: t for group, t in checkpoint.tensors.items() if "/" not in group}
    save_checkpoint(replace(checkpoint, tensors=own), tmp_path / CHECKPOINT_NAME)
    read = load_trained(tmp_path).transfer.state_dict()
    for name, value in own["transfer"].items():
        assert torch.equal(read[name], value)


def without_a_tensor(tensors: dict) -> dict:
    return {name: value for name, value in tensors.items() if name != "fc.bias"}


def of_another_shape(tensors: dict) -> dict:
    return tensors | {"fc.bias": torch.zeros(3)}


def with_one_more(tensors: dict) -> dict:
    return tensors | {"fc.extra": torch.zeros(3)}


@pytest.mark.parametrize("change", [without_a_tensor, of_another_shape, with_one_more])
def test_weights_that_do_not_fit_are_an_error(tmp_path: Path, checkpoint, change):
    group = "averaged/recognizer"
    changed = {**checkpoint.tensors, group: change(dict(checkpoint.tensors[group]))}
    save_checkpoint(replace(checkpoint, tensors=changed), tmp_path / CHECKPOINT_NAME)
    with pytest.raises(ConfigurationError, match="weights of the recognizer do not fit"):
        load_trained(tmp_path)


def test_a_checkpoint_without_a_network_is_an_error(tmp_path, checkpoint):
    kept = {group: t for group, t in checkpoint.tensors.items() if "restorer" not in group}
    save_checkpoint(replace(checkpoint, tensors=kept), tmp_path / CHECKPOINT_NAME)
    with pytest.raises(ConfigurationError, match="weights of the restorer do not fit"):
        load_trained(tmp_path)


@pytest.fixture
def recognizer_alone(checkpoint) -> Checkpoint:
    """As `dtir-train fit-recognizer` leaves it."""
    return replace(checkpoint, tensors={"recognizer": checkpoint.tensors["recognizer"]})


@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_recognizer_alone_comes_back(tmp_path, recognizer_alone, named):
    path = tmp_path / CHECKPOINT_NAME
    save_checkpoint(recognizer_alone, path)
    trained = load_recognizer(tmp_path if named == "folder" else path)
    assert (trained.configuration, trained.labels) == (CONFIGURATION, LABELS)
    assert not trained.network.training
    for name, value in trained.network.state_dict().items():
        assert torch.equal(value, recognizer_alone.tensors["recognizer"][name]), name
    assert not any(parameter.requires_grad for parameter in trained.network.parameters())


def test_a_recognizer_alone_is_no_system_and_a_system_none(tmp_path, checkpoint, recognizer_alone):
    assert reads_photos(recognizer_alone)
    assert not reads_photos(checkpoint)
    save_checkpoint(recognizer_alone, tmp_path / "alone" / CHECKPOINT_NAME)
    save_checkpoint(checkpoint, tmp_path / "system" / CHECKPOINT_NAME)
    with pytest.raises(ConfigurationError, match="alone: a recognizer of photos alone"):
        load_trained(tmp_path / "alone")
    with pytest.raises(ConfigurationError, match=r"system: a system, .*dtir-train fit-recognizer"):
        load_recognizer(tmp_path / "system")


def test_a_recognizer_alone_that_does_not_fit_is_an_error(tmp_path, recognizer_alone):
    group = without_a_tensor(dict(recognizer_alone.tensors["recognizer"]))
    changed = replace(recognizer_alone, tensors={"recognizer": group})
    save_checkpoint(changed, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(ConfigurationError, match="weights of the recognizer do not fit"):
        load_recognizer(tmp_path)


def test_no_recognizer_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="no checkpoint there"):
        load_recognizer(tmp_path)
