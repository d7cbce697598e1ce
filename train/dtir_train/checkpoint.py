"""Checkpoints: one safetensors file with everything that a run needs to go on, nothing pickled.

The file's metadata holds the configuration, the labels and the step; its tensors are named
`<group>/<name>`: the networks, their averaged weights and the optimizers' states. Since batches
are a function of the step, no random state is needed. A SHA-256 of all of it, in the metadata too,
tells of damage and of careless changes; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dtir_sdk.errors import ConfigurationError, OutputError
from dtir_train.building import build_generator, build_recognizer
from dtir_train.configuration import Configuration
from dtir_train.networks import Generator, Recognizer
from dtir_train.run_folder import CONFIGURATION_NAME, read_configuration

CHECKPOINT_NAME = "checkpoint.safetensors"
_FORMAT = "dtir-checkpoint-2"
# Written before checkpoints had a SHA-256.
_FORMAT_WITHOUT_HASH = "dtir-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """A run at one step.

    Attributes:
        configuration: of the run.
        labels: names of the classes.
        step: steps done.
        tensors: group ("transfer", "averaged/transfer", "optimizer/transfer", ...) to name to
            tensor, on the CPU.
        pictures: SHA-256 of the training pictures' names and labels; None where it was not noted.
        penalty: the last gradient penalty that is not in the metrics yet; None where all are.
    """

    configuration: Configuration
    labels: tuple[str, ...]
    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    pictures: str | None = None
    penalty: float | None = None


@dataclass(frozen=True)
class TrainedNetworks:
    """The networks that are deployed, with averaged weights, float32, on the CPU, in eval mode."""

    transfer: Generator
    recognizer: Recognizer
    restorer: Generator
    configuration: Configuration
    labels: tuple[str, ...]
    step: int


@dataclass(frozen=True)
class TrainedRecognizer:
    """A recognizer that reads photos: float32, on the CPU, in eval mode, and what it reads."""

    network: Recognizer
    configuration: Configuration
    labels: tuple[str, ...]


def run_name(path: Path) -> str:
    """Returns what a run is called: the name of its folder, of which `path` may be the checkpoint.

    A run in the root folder is called `dtir`.
    """
    folder = path if path.is_dir() else path.parent
    return folder.resolve().name or "dtir"


def refuse_used(folder: Path) -> None:
    """Refuses a folder for something new that holds a checkpoint, or what a run began with.

    Raises:
        ConfigurationError: where it does.
    """
    for name, what in ((CHECKPOINT_NAME, "a checkpoint"), (CONFIGURATION_NAME, "a run")):
        if (folder / name).exists():
            raise ConfigurationError(f"{folder} holds {what} already: name another folder")


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a checkpoint atomically: the old file stands until the new one is on the disk.

    Raises:
        OutputError: where it cannot be written, a full disk for example.
    """
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, members in checkpoint.tensors.items()
        for name, tensor in members.items()
    }
    metadata = {
        "format": _FORMAT,
        "configuration": json.dumps(checkpoint.configuration.to_json()),
        "labels": json.dumps(checkpoint.labels),
        "step": str(checkpoint.step),
    }
    if checkpoint.pictures is not None:
        metadata["pictures"] = checkpoint.pictures
    if checkpoint.penalty is not None:
        metadata["penalty"] = repr(checkpoint.penalty)
    metadata["sha256"] = _sha256(tensors, metadata)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(save(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        kept = "; the one before it is kept" if path.is_file() else ""
        raise OutputError(f"{path}: the checkpoint could not be written ({error}){kept}") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        path: the file, or the folder of the run.

    Raises:
        ConfigurationError: where it is missing, truncated, changed, not one of ours, or of another
            configuration than the folder's.
    """
    folder = path if path.is_dir() else None
    if path.is_dir():
        path = path / CHECKPOINT_NAME
    if not path.is_file():
        raise ConfigurationError(f"{path}: no checkpoint there: train with `dtir-train fit` first")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(
            f"{path}: truncated or not a checkpoint ({error}): use an earlier one"
        ) from error
    if metadata.get("format") not in (_FORMAT, _FORMAT_WITHOUT_HASH):
        raise ConfigurationError(
            f"{path}: not a checkpoint of this dtir (format {metadata.get('format')!r}, "
            f"expected {_FORMAT!r})"
        )
    hashed = metadata["format"] == _FORMAT or "sha256" in metadata
    if hashed and metadata.get("sha256") != _sha256(stored, metadata):
        raise ConfigurationError(
            f"{path}: damaged or changed since it was written (its SHA-256 differs): use an "
            "earlier one"
        )
    try:
        configuration = Configuration.from_json(json.loads(metadata["configuration"]), path)
        labels = tuple(str(label) for label in json.loads(metadata["labels"]))
        step = int(metadata["step"])
        penalty = float(metadata["penalty"]) if "penalty" in metadata else None
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path}: broken metadata ({error})") from error
    if folder is not None and (folder / CONFIGURATION_NAME).exists():
        _check_configuration(configuration, folder)
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in stored.items():
        group, _, name = key.rpartition("/")
        tensors.setdefault(group, {})[name] = tensor
    return Checkpoint(configuration, labels, step, tensors, metadata.get("pictures"), penalty)


def _check_configuration(configuration: Configuration, folder: Path) -> None:
    if configuration != read_configuration(folder):
        raise ConfigurationError(
            f"{folder / CHECKPOINT_NAME} belongs to another configuration than "
            f"{folder / CONFIGURATION_NAME}: put back the one of the two that was changed"
        )


def _sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of all tensors, by name, and of the metadata but for the hash itself."""
    described = {name: value for name, value in metadata.items() if name != "sha256"}
    return tensors_sha256(tensors, json.dumps(described, sort_keys=True).encode())


def tensors_sha256(tensors: Mapping[str, Tensor], before: bytes = b"") -> str:
    """Returns the SHA-256, in hexadecimal, of tensors with their names, types and shapes.

    Args:
        tensors: contiguous, on the CPU.
        before: what is hashed first.
    """
    digest = hashlib.sha256(before)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a training can go on from tensors: no infinities, no NaN."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def reads_photos(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds a recognizer of photos alone, not a system."""
    return set(checkpoint.tensors) == {"recognizer"}


def load_recognizer(path: Path) -> TrainedRecognizer:
    """Loads what `dtir-train fit-recognizer` trained, from its file or its folder.

    Raises:
        ConfigurationError: as `load_trained`, and where the checkpoint is a whole system's.
    """
    trained = load_either(path)
    if not isinstance(trained, TrainedRecognizer):
        raise ConfigurationError(
            f"{path}: a system, whose recognizer reads cartoons: name a recognizer of photos, "
            "which `dtir-train fit-recognizer` trains"
        )
    return trained


def load_trained(path: Path) -> TrainedNetworks:
    """Loads the networks to deploy from a checkpoint file or a run's folder.

    Raises:
        ConfigurationError: as `load_checkpoint`, where weights and configuration disagree, and
            where the checkpoint is of a recognizer alone.
    """
    trained = load_either(path)
    if isinstance(trained, TrainedRecognizer):
        raise ConfigurationError(
            f"{path}: a recognizer of photos alone: name a run of `dtir-train fit`, which has all "
            "networks"
        )
    return trained


def load_either(path: Path) -> TrainedNetworks | TrainedRecognizer:
    """Loads what a checkpoint holds, a system's networks or a recognizer of photos alone.

    Raises:
        ConfigurationError: as `load_checkpoint`, or where weights and configuration disagree.
    """
    checkpoint = load_checkpoint(path)
    sizes = checkpoint.configuration.networks
    with torch.device("cpu"):
        recognizer = build_recognizer(sizes, len(checkpoint.labels))
        if reads_photos(checkpoint):
            _give_weights(recognizer, checkpoint, "recognizer", path)
            return TrainedRecognizer(recognizer, checkpoint.configuration, checkpoint.labels)
        transfer = build_generator(sizes)
        restorer = build_generator(sizes)
    networks: tuple[tuple[str, torch.nn.Module], ...] = (
        ("transfer", transfer),
        ("recognizer", recognizer),
        ("restorer", restorer),
    )
    for name, network in networks:
        _give_weights(network, checkpoint, name, path)
    return TrainedNetworks(
        transfer, recognizer, restorer, checkpoint.configuration, checkpoint.labels, checkpoint.step
    )


def _give_weights(network: torch.nn.Module, checkpoint: Checkpoint, name: str, path: Path) -> None:
    """Loads a network's averaged weights, where there are any, and freezes it."""
    weights = checkpoint.tensors.get(f"averaged/{name}") or checkpoint.tensors.get(name, {})
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ConfigurationError(
            f"{path}: the weights of the {name} do not fit the configuration saved with them: "
            "the file was changed, train again or use an earlier one"
        ) from error
    network.eval().requires_grad_(False)
