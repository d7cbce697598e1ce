"""What a bundle says about itself, as its `manifest.json` has it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Literal, NoReturn, TypeVar, cast, get_args

from dtir_sdk.batches import DEFAULT_BATCHES, BatchRange, check_batches
from dtir_sdk.errors import BundleError, ConfigurationError
from dtir_sdk.files import reason

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

Role = Literal["full", "edge", "cloud", "authority"]
ModelName = Literal["transfer", "recognizer", "restorer"]
FilePrecision = Literal["fp32", "fp16", "int8"]
Crop = Literal["face", "whole"]

MAY_HOLD: Mapping[Role, frozenset[ModelName]] = {
    "full": frozenset(("transfer", "recognizer", "restorer")),
    "edge": frozenset(("transfer",)),
    "cloud": frozenset(("recognizer",)),
    "authority": frozenset(("restorer",)),
}

_Kind = TypeVar("_Kind")
_KINDS = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class ModelFile:
    """One graph of a bundle.

    Attributes:
        file: name of the ONNX file inside the bundle's folder.
        sha256: SHA-256 of the file, 64 lower-case hexadecimal digits.
        precision: precision that the graph is stored in.
    """

    file: str
    sha256: str
    precision: FilePrecision


@dataclass(frozen=True)
class TrainingData:
    """A data set that the bundle's networks were trained on.

    Attributes:
        name: the data set.
        licence: under which terms it may be used.
        pictures: how many of its pictures were used.
    """

    name: str
    licence: str
    pictures: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself: the machine's contract and the reader's model card.

    Attributes:
        name: the bundle's name.
        image_size: S, the side of the square crop in pixels.
        attribute: what is recognised, such as `gender`.
        labels: the K labels, in the order of the recognizer's output.
        role: whose bundle it is.
        files: the graphs it holds.
        metrics: figures measured on these graphs; any JSON object.
        training_data: the data sets that the networks were trained on.
        intended_use: what it is for.
        limits: what it cannot do.
        created: ISO date.
        dtir_version: version of dtir that wrote it.
        batches: the batch sizes that TensorRT's engines are built for, a profile each; the
            largest is the most that goes through any engine at once.
        int8_files: the same graphs in INT8, for CPUs on which these are the fastest; either of
            all graphs or of none.
        crop: what of a picture the networks are given: each `face`, cut out, or the `whole`.
        format_version: version of the bundle format.
    """

    name: str
    image_size: int
    attribute: str
    labels: tuple[str, ...]
    role: Role
    files: Mapping[ModelName, ModelFile]
    metrics: Mapping[str, Any]
    training_data: tuple[TrainingData, ...]
    intended_use: str
    limits: tuple[str, ...]
    created: str
    dtir_version: str
    batches: tuple[BatchRange, ...] = DEFAULT_BATCHES
    int8_files: Mapping[ModelName, ModelFile] = field(default_factory=dict)
    crop: Crop = "face"
    format_version: int = FORMAT_VERSION

    @classmethod
    def from_json(cls, text: str | bytes, where: str = MANIFEST) -> Manifest:
        """Reads and checks a manifest; fields that this version does not know are passed over.

        Args:
            text: the JSON document.
            where: what to call it in an error.

        Raises:
            BundleError: it is no manifest, or one of a newer format.
        """
        try:
            document = json.loads(text, parse_constant=_refuse_constant)
            # Escapes can stand for halves of characters, and 1e999 for infinity.
            json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{where} is not well-formed JSON: {reason(error)}") from error
        if not isinstance(document, dict):
            raise BundleError(f"{where} must hold a JSON object")
        return _parse(document, where)

    def to_json(self) -> str:
        """Returns the manifest as the text of `manifest.json`."""
        document = {"format_version": self.format_version, **asdict(self)}
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _is_plain_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}", name) is not None


class _Fields:
    """Takes typed fields out of a JSON object, or says which one does not fit."""

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self._document = document
        self._where = where

    def __contains__(self, key: str) -> bool:
        return key in self._document

    def refuse(self, key: str, problem: str) -> NoReturn:
        raise BundleError(f"{self._where}: field {key!r} {problem}")

    def take(self, key: str, kind: type[_Kind]) -> _Kind:
        if key not in self._document:
            self.refuse(key, "is missing")
        value = self._document[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            self.refuse(key, f"must be {_KINDS[kind]}")
        return value

    def text(self, key: str) -> str:
        value = self.take(key, str)
        if not value.strip():
            self.refuse(key, "must not be empty")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list)
        if not all(isinstance(value, str) and value.strip() for value in values):
            self.refuse(key, "must be a list of texts, none of them empty")
        return tuple(values)

    def number(self, key: str, low: int, high: float = math.inf) -> int:
        value = self.take(key, int)
        if not low <= value <= high:
            span = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            self.refuse(key, f"must be {span}, and is {str(value)[:20]}")
        return value

    def one_of(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.take(key, str)
        if value not in choices:
            self.refuse(key, f"must be one of {', '.join(choices)}, and is {value[:40]!r}")
        return value

    def objects(self, key: str) -> list[tuple[str, _Fields]]:
        value = self.take(key, cast("type[Any]", dict if key in ("files", "int8_files") else list))
        pairs = enumerate(value) if isinstance(value, list) else value.items()
        objects = []
        for inner, document in pairs:
            if not isinstance(document, dict):
                self.refuse(key, f"must hold objects, and {str(inner)[:40]!r} is none")
            objects.append((str(inner), _Fields(document, f"{self._where}: {key} {inner!r:.40}")))
        return objects


def _parse(document: Mapping[str, Any], where: str) -> Manifest:
    fields = _Fields(document, where)
    version = fields.number("format_version", 1)
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{where} has format version {str(version)[:20]}, and this dtir reads up to "
            f"{FORMAT_VERSION}: upgrade with pip install --upgrade dtir"
        )
    role = cast("Role", fields.one_of("role", get_args(Role)))
    labels = fields.texts("labels")
    if len(labels) < 2 or len(set(labels)) < len(labels):
        fields.refuse("labels", "must be two labels or more, no two the same")
    created = fields.text("created")
    try:
        date.fromisoformat(created)
    except ValueError:
        fields.refuse("created", f"must be an ISO date, and is {created[:40]!r}")
    files = _parse_files(fields, role, "files")
    return Manifest(
        name=fields.text("name"),
        image_size=fields.number("image_size", 8, 4096),
        attribute=fields.text("attribute"),
        labels=labels,
        role=role,
        files=files,
        metrics=fields.take("metrics", cast("type[dict[str, Any]]", dict)),
        training_data=tuple(
            TrainingData(inner.text("name"), inner.text("licence"), inner.number("pictures", 0))
            for _, inner in fields.objects("training_data")
        ),
        intended_use=fields.text("intended_use"),
        limits=fields.texts("limits"),
        created=created,
        dtir_version=fields.text("dtir_version"),
        batches=_parse_batches(fields),
        int8_files=_parse_int8_files(fields, role, files),
        crop=_parse_crop(fields),
        format_version=version,
    )


def _parse_batches(fields: _Fields) -> tuple[BatchRange, ...]:
    # Older bundles do not say.
    if "batches" not in fields:
        return DEFAULT_BATCHES
    sides = ("least", "best", "most")
    try:
        batches = tuple(
            BatchRange(*(inner.number(side, 1) for side in sides))
            for _, inner in fields.objects("batches")
        )
        check_batches(batches)
    except ConfigurationError as error:
        fields.refuse("batches", f"does not fit: {error}")
    return batches


def _parse_crop(fields: _Fields) -> Crop:
    # Older bundles do not say.
    return cast("Crop", fields.one_of("crop", get_args(Crop))) if "crop" in fields else "face"


def _parse_int8_files(
    fields: _Fields, role: Role, files: Mapping[ModelName, ModelFile]
) -> Mapping[ModelName, ModelFile]:
    # Older bundles do not say.
    if "int8_files" not in fields or not fields.take("int8_files", cast("type[Any]", dict)):
        return {}
    found = _parse_files(fields, role, "int8_files")
    if set(found) != set(files) or {file.precision for file in found.values()} != {"int8"}:
        fields.refuse("int8_files", "must hold each graph of 'files', in the precision int8")
    return found


def _parse_files(fields: _Fields, role: Role, within: str) -> Mapping[ModelName, ModelFile]:
    files: dict[ModelName, ModelFile] = {}
    for key, inner in fields.objects(within):
        if key not in get_args(ModelName):
            fields.refuse(within, f"knows no {key[:40]!r}, only {', '.join(get_args(ModelName))}")
        file, digest = inner.text("file"), inner.text("sha256")
        if not _is_plain_name(file):
            inner.refuse("file", f"must be a plain file name in the bundle, not {file[:80]!r}")
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            inner.refuse("sha256", "must be 64 lower-case hexadecimal digits")
        precision = inner.one_of("precision", get_args(FilePrecision))
        files[cast("ModelName", key)] = ModelFile(file, digest, cast("FilePrecision", precision))
    if not files:
        fields.refuse(within, "must name at least one graph")
    excess = frozenset(files) - MAY_HOLD[role]
    if excess:
        fields.refuse(
            within,
            f"holds {listed(excess)}, which the role {role!r} may not: it may hold "
            f"{listed(MAY_HOLD[role])}",
        )
    return files


def listed(names: Iterable[ModelName]) -> str:
    """Returns the names of graphs as a text that is always the same."""
    return ", ".join(sorted(names))
