"""Writes a bundle, whole or not at all."""

from __future__ import annotations

import hashlib
import stat
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from os import PathLike
from pathlib import Path
from typing import Any

import dtir_sdk
from dtir_sdk.batches import DEFAULT_BATCHES, BatchRange
from dtir_sdk.bundle import Bundle, check_graph
from dtir_sdk.errors import BundleError, OutputError
from dtir_sdk.files import check_writable, reason, sync
from dtir_sdk.manifest import (
    MANIFEST,
    Crop,
    FilePrecision,
    Manifest,
    ModelFile,
    ModelName,
    Role,
    TrainingData,
)


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
        check_graph(data, file)
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
