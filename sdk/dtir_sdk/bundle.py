"""The bundle: a folder with a manifest and the graphs that one party may hold."""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, cast, get_args

import dtir_sdk
from dtir_sdk.batches import DEFAULT_BATCHES, BatchRange, check_batches
from dtir_sdk.errors import BundleError, ConfigurationError, OutputError
from dtir_sdk.files import check_writable, reason, sync
from dtir_sdk.onnx_file import holds_external_data

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


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | PathLike[str] | None = None) -> Bundle:
        """Opens a bundle: reads its manifest and checks that its files are there.

        Files are hashed when they are used, by `model`, or all of them by `verify`.

        Args:
            path: the bundle's folder; None is the one that comes with dtir.

        Raises:
            BundleError: it is missing, wrongly built, newer than this version, or holds more
                than its party may hold.

        Examples:
            >>> Bundle.open("no/such/folder")
            Traceback (most recent call last):
            ...
            dtir_sdk.errors.BundleError: no/such/folder is not there: name a bundle's folder...
        """
        folder = default_folder() if path is None else Path(path)
        manifest_path = folder / MANIFEST
        try:
            if not folder.is_dir():
                if path is None:
                    raise BundleError(f"{folder} is missing: reinstall dtir, or name a bundle")
                what = "is a file" if folder.exists() else "is not there"
                raise BundleError(f"{folder} {what}: name a bundle's folder, with a {MANIFEST}")
            if not manifest_path.is_file():
                raise BundleError(f"{folder} is no bundle: it holds no {MANIFEST}")
            text = manifest_path.read_bytes()
        except (OSError, ValueError) as error:
            raise BundleError(f"{manifest_path} could not be read: {reason(error)}") from error
        bundle = cls(folder, Manifest.from_json(text, str(manifest_path)))
        for held in bundle._all():
            for name in held.manifest.files:
                held.model_path(name)
        return bundle

    def in_int8(self) -> Bundle:
        """Returns the same bundle with its INT8 graphs in place of the others.

        Raises:
            BundleError: it holds none.
        """
        manifest = self.manifest
        if not manifest.int8_files:
            raise BundleError(
                f"{self.folder} holds no graphs in INT8: make such a bundle with `dtir-export "
                "--int8`"
            )
        return Bundle(self.folder, replace(manifest, files=manifest.int8_files, int8_files={}))

    def model_path(self, name: ModelName) -> Path:
        """Returns where a graph lies.

        Args:
            name: `transfer`, `recognizer` or `restorer`.

        Raises:
            BundleError: the bundle does not hold it, or the file is missing.
        """
        manifest = self.manifest
        if name not in manifest.files:
            raise BundleError(
                f"{self.folder} holds no {name}: its role is {manifest.role!r} and it holds "
                f"{_listed(manifest.files)} only"
            )
        path = self.folder / manifest.files[name].file
        try:
            # It may be a link, as in shared caches: what it leads to is hashed when it is read.
            present = path.is_file()
        except OSError as error:
            raise BundleError(f"{path} could not be read: {reason(error)}") from error
        if not present:
            raise BundleError(f"{path} is missing: copy or export the bundle again")
        return path

    def model(self, name: ModelName) -> bytes:
        """Reads a graph. The bytes returned are the very bytes that were checked.

        Args:
            name: `transfer`, `recognizer` or `restorer`.

        Returns:
            The ONNX file.

        Raises:
            BundleError: the bundle does not hold it, or it is missing, changed, no ONNX model,
                or keeps data in other files.
        """
        path = self.model_path(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path} could not be read: {reason(error)}") from error
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name].sha256:
            raise BundleError(
                f"{path} is not the file that the manifest describes (SHA-256 differs): "
                "copy or export the bundle again"
            )
        _check_graph(data, str(path))
        return data

    def verify(self) -> None:
        """Reads and checks every graph.

        Raises:
            BundleError: as `model`.
        """
        for held in self._all():
            for name in held.manifest.files:
                held.model(name)

    def _all(self) -> list[Bundle]:
        return [self, self.in_int8()] if self.manifest.int8_files else [self]


def default_folder() -> Path:
    """Returns where the bundle that comes with dtir lies."""
    return Path(str(resources.files("dtir_sdk"))) / "models" / "default"


def write_bundle(
    folder: str | PathLike[str],
    *,
    name: str,
    image_size: int,
    attribute: str,
    labels: Sequence[str],
    role: Role,
    models: Mapping[ModelName, tuple[bytes, FilePrecision]],
    metrics: Mapping[str, Any],
    training_data: Sequence[TrainingData],
    intended_use: str,
    limits: Sequence[str],
    batches: Sequence[BatchRange] = DEFAULT_BATCHES,
    int8_models: Mapping[ModelName, bytes] | None = None,
    crop: Crop = "face",
    created: date | None = None,
) -> Bundle:
    """Writes a bundle, whole or not at all.

    Args:
        folder: where to; an empty folder is filled, a bundle in which nothing else lies is
            replaced by a folder with its permissions, anything else refused.
        name: see `Manifest`, as for the arguments down to `batches`.
        image_size: S in pixels.
        attribute: what is recognised.
        labels: the K labels in the order of the recognizer's output.
        role: whose bundle it is.
        models: for each graph its ONNX file and the precision that it is stored in.
        metrics: any JSON object.
        training_data: the data sets.
        intended_use: what it is for.
        limits: what it cannot do.
        batches: the batch sizes.
        int8_models: each of the graphs in INT8, to be held beside the others; None holds none.
        crop: what of a picture the networks are given.
        created: the manifest's date; None is today.

    Returns:
        The bundle as written.

    Raises:
        BundleError: a value does not fit, a graph keeps data in other files, or the role holds
            more than that party may hold.
        OutputError: the folder cannot be written or holds something else.
    """
    # Of a link, what it leads to is replaced.
    target = Path(folder).resolve()
    contents = {f"{model}.onnx": data for model, (data, _) in models.items()}
    contents |= {f"{model}-int8.onnx": data for model, data in (int8_models or {}).items()}
    manifest = Manifest(
        name=name,
        image_size=image_size,
        attribute=attribute,
        labels=tuple(labels),
        role=role,
        files={
            model: ModelFile(f"{model}.onnx", hashlib.sha256(data).hexdigest(), precision)
            for model, (data, precision) in models.items()
        },
        int8_files={
            model: ModelFile(f"{model}-int8.onnx", hashlib.sha256(data).hexdigest(), "int8")
            for model, data in (int8_models or {}).items()
        },
        metrics=dict(metrics),
        training_data=tuple(training_data),
        intended_use=intended_use,
        limits=tuple(limits),
        created=(created or date.today()).isoformat(),
        dtir_version=dtir_sdk.__version__,
        batches=tuple(batches),
        crop=crop,
    )
    for file, data in contents.items():
        _check_graph(data, file)
    try:
        text = manifest.to_json().encode()
    except (TypeError, ValueError) as error:
        raise BundleError(f"the manifest cannot be written as JSON: {reason(error)}") from error
    Manifest.from_json(text)
    contents[MANIFEST] = text
    try:
        _write_folder(target, contents)
    except OSError as error:
        raise OutputError(f"{target} could not be written: {reason(error)}") from error
    return Bundle.open(target)


def _write_folder(target: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files into a folder of their own; of those in `contents`, the manifest is the last."""
    check_replaceable(target)
    if target.is_dir() and not any(target.iterdir()):
        _fill(target, contents)
    else:
        _replace(target, contents)


def _fill(target: Path, contents: Mapping[str, bytes]) -> None:
    """Fills an empty folder, which stays the same: a mount, a shell's own, one kept from others."""
    with tempfile.TemporaryDirectory(prefix=".dtir.", dir=target) as work:
        _write_files(Path(work), contents)
        try:
            for file in contents:
                (Path(work) / file).rename(target / file)
        except BaseException:
            for file in contents:
                (target / file).unlink(missing_ok=True)
            raise


def _replace(target: Path, contents: Mapping[str, bytes]) -> None:
    """Makes a folder, or puts a new one with the same permissions in the place of a former one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name[:80]}.", dir=target.parent) as work:
        fresh, former = Path(work) / "fresh", Path(work) / "former"
        fresh.mkdir()
        _write_files(fresh, contents)
        try:
            if target.is_dir():
                fresh.chmod(stat.S_IMODE(target.stat().st_mode))
                target.rename(former)
            fresh.rename(target)
        except BaseException:
            if former.exists() and not target.exists():
                former.rename(target)
            raise


def _write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    for file, data in contents.items():
        (folder / file).write_bytes(data)
        sync(folder / file)


def check_replaceable(folder: Path) -> None:
    """Checks that `write_bundle` would write there, before the work of making a bundle.

    Args:
        folder: of the bundle; it need not exist.

    Raises:
        OutputError: it is a file, holds anything but a bundle's manifest and graphs, cannot be
            written, or is a bundle and the current folder, which would be none after that.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file: name a folder for the bundle")
        names = {path.name: path.is_file() for path in folder.iterdir()} if folder.is_dir() else {}
        if names:
            _check_nothing_foreign(folder, names)
            if folder.samefile(Path()):
                raise OutputError(
                    f"{folder} is the current folder, and holds a bundle: replace it from outside"
                )
    except OSError as error:
        raise OutputError(f"{folder} could not be read: {reason(error)}") from error
    # What is not empty is made anew beside its place, and then moved there.
    empty = folder.is_dir() and not names
    check_writable(folder if empty else folder.resolve().parent)


def _check_nothing_foreign(folder: Path, names: Mapping[str, bool]) -> None:
    """Refuses a folder with other names in it than a bundle's; each is told whether of a file."""
    try:
        manifest = Manifest.from_json((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
    except FileNotFoundError as error:
        raise OutputError(
            f"{folder} holds something that is no bundle: name another folder"
        ) from error
    except BundleError as error:
        raise OutputError(f"{folder} holds no bundle ({error}): name another folder") from error
    graphs = (*manifest.files.values(), *manifest.int8_files.values())
    own = {MANIFEST, *(graph.file for graph in graphs)}
    foreign = sorted(name for name, is_file in names.items() if name not in own or not is_file)
    if foreign:
        raise OutputError(
            f"{folder} holds more than a bundle ({foreign[0]}): move that away, or name another "
            "folder"
        )


def _check_graph(data: bytes, where: str) -> None:
    try:
        external = holds_external_data(data)
    except ValueError as error:
        raise BundleError(f"{where} is no ONNX model: export the bundle again") from error
    if external:
        raise BundleError(
            f"{where} keeps its data in other files (ONNX external data), which a bundle's "
            "hashes do not cover: export it as a single file"
        )


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _listed(names: Mapping[ModelName, object] | frozenset[ModelName]) -> str:
    return ", ".join(sorted(names))


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
            f"holds {_listed(excess)}, which the role {role!r} may not: it may hold "
            f"{_listed(MAY_HOLD[role])}",
        )
    return files
