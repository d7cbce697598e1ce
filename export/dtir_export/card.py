"""The model card: what the networks were trained on, what they are for, and what they cannot do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtir_sdk.bundle import Bundle
from dtir_sdk.errors import ConfigurationError, DataError, DtirError
from dtir_sdk.files import reason
from dtir_sdk.manifest import TrainingData
from dtir_train.bundled_networks import is_bundle
from dtir_train.checkpoint import TrainedNetworks, load_checkpoint
from dtir_train.configuration import Configuration, Data
from dtir_train.datasets.decoded import GENERATED, entries_of, generated_count
from dtir_train.datasets.sources import Domain, open_source
from dtir_train.run_folder import CONFIGURATION_NAME, read_configuration

_FIELDS = frozenset({"attribute", "training_data", "intended_use", "limits"})
_NOT_STATED = "not stated: ask whoever trained it"


@dataclass(frozen=True)
class ModelCard:
    """What a person must know before using a bundle.

    Attributes:
        attribute: what is recognised, in a word.
        training_data: the data sets, each with its licence.
        intended_use: what it is for.
        limits: what it cannot do.
    """

    attribute: str
    training_data: tuple[TrainingData, ...]
    intended_use: str
    limits: tuple[str, ...]


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ConfigurationError: the file is missing, or holds something else.
    """
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        # Escapes can stand for halves of characters, and 1e999 for infinity.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except OSError as error:
        raise ConfigurationError(f"{path} could not be read: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not well-formed JSON: {reason(error)}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path} must hold a JSON object")
    return value


def model_card(networks: TrainedNetworks, path: Path | None) -> ModelCard:
    """Makes the card of a run.

    Args:
        networks: the trained networks.
        path: a JSON file with any of `attribute`, `training_data` (a list of objects with
            `name`, `licence` and `pictures`), `intended_use` and `limits` (a list); what it
            leaves out, and all of it for None, is what the run's configuration tells, and for
            the pictures those of what it started from and of its teacher.

    Raises:
        ConfigurationError: the file is missing, no JSON, or has a field that is unknown or of
            the wrong kind.
    """
    default = _default(networks)
    if path is None:
        return default
    given = read_object(path)
    unknown = sorted(set(given) - _FIELDS)
    if unknown:
        raise ConfigurationError(
            f"{path}: unknown field {unknown[0]!r}: a model card has {', '.join(sorted(_FIELDS))}"
        )
    data, limits = given.get("training_data"), given.get("limits")
    return ModelCard(
        attribute=_text(given, "attribute", default.attribute, path),
        training_data=default.training_data if data is None else _training_data(data, path),
        intended_use=_text(given, "intended_use", default.intended_use, path),
        limits=default.limits if limits is None else _texts(limits, path),
    )


def _default(networks: TrainedNetworks) -> ModelCard:
    data = networks.configuration.data
    size = networks.configuration.networks.image_size
    return ModelCard(
        attribute=data.attribute,
        training_data=tuple(_trained_on(networks.configuration, set())),
        intended_use=(
            f"To recognise `{data.attribute}` ({', '.join(networks.labels[:10])}"
            f"{', ...' if len(networks.labels) > 10 else ''}) from transferred pictures of "
            f"{size}x{size} pixels. Exported from a training run at step {networks.step}; its "
            "maker has not described any other use."
        ),
        limits=(
            "Only pictures like those of the training data are covered.",
            "Whoever holds the restore generator can give the private picture back from the "
            "transferred one.",
            "A recognised label is an estimate: not for decisions about people.",
        ),
    )


def _trained_on(configuration: Configuration, told: set[Path]) -> Iterator[TrainingData]:
    """A run's own pictures, and those of the systems that it started or learned from.

    Args:
        configuration: of the run.
        told: where pictures and systems lie that are told of already; what is told of is added.
    """
    data = configuration.data
    domains: dict[str, Domain] = dict.fromkeys((*data.secret, *data.unlabelled), "secret")
    for source in data.target:
        domains.setdefault(source, "target")
    # A relabelled run reads no labels: its photos fill the place of the target pictures too.
    relabelled = configuration.teacher is not None and data.target == data.secret
    labelled = () if relabelled else data.secret
    for source, domain in domains.items():
        if _is_new(Path(source), told):
            attribute = data.attribute if source in labelled else None
            yield _described(source, domain, attribute, data)
    for system in (configuration.start_from, configuration.teacher):
        if system is not None and _is_new(Path(system), told):
            yield from _trained_on_before(Path(system), told)


def _is_new(path: Path, told: set[Path]) -> bool:
    path = path.resolve()
    new = path not in told
    told.add(path)
    return new


def _trained_on_before(path: Path, told: set[Path]) -> Iterator[TrainingData]:
    try:
        if is_bundle(path):
            yield from Bundle.open(path).manifest.training_data
        elif (path / CONFIGURATION_NAME).is_file():
            yield from _trained_on(read_configuration(path), told)
        else:
            yield from _trained_on(load_checkpoint(path).configuration, told)
    except DtirError:
        # It may have been trained on another machine.
        yield TrainingData(f"what {path.name} was trained on (not known)", _NOT_STATED, 0)


def _described(source: str, domain: Domain, attribute: str | None, data: Data) -> TrainingData:
    if source == GENERATED:
        drawn = generated_count(data, "train")
        return TrainingData("pictures drawn by dtir", "none needed", drawn)
    # A folder's name need not be text, and the manifest is.
    name = os.fsencode(Path(source).resolve().name or source).decode(errors="replace")
    try:
        entries = open_source(Path(source), attribute, domain).entries
    except DataError:
        # The run may have been trained on another machine.
        return TrainingData(f"{name} (number of pictures not known)", _NOT_STATED, 0)
    return TrainingData(name, _NOT_STATED, len(entries_of(entries, data, "train")))


def _text(given: dict[str, Any], name: str, default: str, path: Path) -> str:
    value = given.get(name, default)
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{path}: {name} must be a text")
    return value


def _texts(value: object, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise ConfigurationError(f"{path}: limits must be a list of texts")
    return tuple(value)


def _training_data(value: object, path: Path) -> tuple[TrainingData, ...]:
    problem = f"{path}: training_data must be a list of objects with name, licence and pictures"
    if not isinstance(value, list):
        raise ConfigurationError(problem)
    sets = []
    for item in value:
        if not isinstance(item, dict) or set(item) != {"name", "licence", "pictures"}:
            raise ConfigurationError(problem)
        name, licence, pictures = item["name"], item["licence"], item["pictures"]
        if not (isinstance(name, str) and name and isinstance(licence, str) and licence):
            raise ConfigurationError(f"{problem}: name and licence are texts")
        if not isinstance(pictures, int) or isinstance(pictures, bool) or pictures < 0:
            raise ConfigurationError(f"{problem}: pictures is a number, 0 or more")
        sets.append(TrainingData(name, licence, pictures))
    return tuple(sets)


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
