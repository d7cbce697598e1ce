"""What there is to export: a training run, a checkpoint, a bundle, or the bundle of dtir itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dtir_sdk.bundle import default_folder
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.files import reason
from dtir_sdk.manifest import MANIFEST

RUNS = Path("runs")
# The same as dtir_train.checkpoint.CHECKPOINT_NAME, which needs PyTorch to be imported; splitting
# a bundle does not.
CHECKPOINT_NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class ExportSource:
    """What to export.

    Attributes:
        kind: a checkpoint to make graphs from, or a bundle that holds them.
        path: the checkpoint's file, or the bundle's folder.
        why: how it was chosen, for the user to read.
    """

    kind: Literal["checkpoint", "bundle"]
    path: Path
    why: str


def find_source(named: Path | None, runs: Path = RUNS) -> ExportSource:
    """Finds what to export.

    Args:
        named: a run's folder, a checkpoint or a bundle's folder; None takes the newest
            checkpoint of a system below `runs`, and where there is none, the bundle that comes
            with dtir.
        runs: folder of the runs.

    Raises:
        ConfigurationError: what was named is none of these or cannot be read, or there is
            nothing to export.
    """
    try:
        return _newest(runs) if named is None else _found(named)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or named or runs} could not be read: {reason(error)}"
        ) from error


def _found(named: Path) -> ExportSource:
    if named.is_file():
        return ExportSource("checkpoint", named, "the checkpoint named")
    if (named / MANIFEST).is_file():
        return ExportSource("bundle", named, "the bundle named")
    if (named / CHECKPOINT_NAME).is_file():
        return ExportSource("checkpoint", named / CHECKPOINT_NAME, "the run named")
    what = f"holds neither {CHECKPOINT_NAME} nor {MANIFEST}" if named.is_dir() else "is not there"
    raise ConfigurationError(f"{named} {what}: name a run's folder, a checkpoint or a bundle")


def _reads_photos(path: Path) -> bool:
    """Whether a checkpoint is of `dtir-train fit-recognizer`, which is no system to export.

    What cannot be read is none either, and is told of when it is exported.
    """
    # With the extra `export`, like all that makes a graph of a checkpoint.
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f'{path}: {error.name} is not installed: pip install "dtir[export]", or name a bundle'
        ) from error

    try:
        with safe_open(str(path), framework="numpy") as file:
            names = set(file.keys())
    except (OSError, SafetensorError):
        return False
    return bool(names) and all(name.startswith("recognizer/") for name in names)


def _newest(runs: Path) -> ExportSource:
    dated = []
    for folder, _, files in os.walk(runs):
        path = Path(folder) / CHECKPOINT_NAME
        if CHECKPOINT_NAME in files and not _reads_photos(path):
            dated.append((path.stat().st_mtime_ns, path))
    if dated:
        return ExportSource("checkpoint", max(dated)[1], f"the newest run under {runs}/")
    bundled = default_folder()
    if (bundled / MANIFEST).is_file():
        return ExportSource(
            "bundle", bundled, f"the model that comes with dtir, as {runs}/ holds no run"
        )
    raise ConfigurationError(
        f"nothing to export: {runs}/ holds no run: train with `dtir-train fit`, or name a run's "
        "folder, a checkpoint or a bundle"
    )
