"""What a run leaves in its folder besides checkpoints: configuration, metrics, sample grids."""

from __future__ import annotations

import csv
import errno
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from dtir_sdk.errors import ConfigurationError, OutputError
from dtir_sdk.files import replacing, write_atomically
from dtir_train.channel import to_bytes
from dtir_train.configuration import Configuration

if sys.platform != "win32":
    import fcntl

CONFIGURATION_NAME = "configuration.json"
METRICS_NAME = "metrics.csv"
_LOCK_NAME = ".lock"
# What a disk says that knows no locks.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})


def write_configuration(folder: Path, configuration: Configuration) -> None:
    """Saves a run's configuration as JSON, atomically.

    Raises:
        OutputError: where the folder cannot be written.
    """
    text = json.dumps(configuration.to_json(), indent=2) + "\n"
    write_atomically(folder / CONFIGURATION_NAME, text.encode())


def read_configuration(folder: Path) -> Configuration:
    """Reads the configuration of a run.

    Raises:
        ConfigurationError: where there is none, or it cannot be read.
    """
    path = folder / CONFIGURATION_NAME
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigurationError(f"{folder}: no run there ({path.name} is missing)") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: could not be read ({error})") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: not JSON ({error})") from error
    return Configuration.from_json(values, path)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps a run's folder, which is made, from a second process that would train into it.

    The system frees it at any end of the process. On Windows, and on a disk that knows no locks,
    nothing keeps it.

    Raises:
        ConfigurationError: where another process trains there.
        OutputError: where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK_NAME).open("a")
    except OSError as error:
        raise OutputError(f"{folder}: could not be written ({error})") from error
    with lock:
        try:
            if sys.platform != "win32":
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"{folder}: another dtir-train is training there: let it end, or name another "
                "folder"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise OutputError(f"{folder}: could not be locked ({error})") from error
        yield


class MetricsFile:
    """Appends a line a step to `metrics.csv`; a resumed run drops the lines after its step.

    Args:
        folder: of the run.
        step: steps done already.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / METRICS_NAME
        self._columns: list[str] = []
        if not self._path.exists():
            return
        rows = self._read()
        if rows:
            self._columns = list(rows[0])
            self._replace([row for row in rows if int(row["step"]) <= step])

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of a step; a first step with new names starts new columns.

        Raises:
            OutputError: where the file cannot be written.
        """
        row = {"step": str(step)} | {name: f"{value:.6g}" for name, value in values.items()}
        new = [name for name in row if name not in self._columns]
        if not new:
            with self._writing(self._path, "a") as writer:
                writer.writerow(row)
            return
        rows = self._read() if self._columns else []
        self._columns += new
        self._replace([*rows, row])

    def _read(self) -> list[dict[str, str]]:
        """Reads the whole lines; a kill may have cut the last one short."""
        try:
            text = self._path.read_bytes().decode(errors="replace")
        except OSError as error:
            raise OutputError(f"{self._path}: could not be read ({error})") from error
        whole = text[: text.rfind("\n") + 1].splitlines()
        return [row for row in csv.DictReader(whole) if (row.get("step") or "").isdecimal()]

    def _replace(self, rows: list[dict[str, str]]) -> None:
        with replacing(self._path) as temporary, self._writing(temporary, "w") as writer:
            writer.writeheader()
            writer.writerows(rows)

    @contextmanager
    def _writing(self, path: Path, mode: str) -> Iterator[csv.DictWriter[str]]:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open(mode, newline="") as file:
                yield csv.DictWriter(file, self._columns, restval="")
        except OSError as error:
            raise OutputError(f"{self._path}: could not be written ({error})") from error


def save_grid(rows: list[Tensor], path: Path) -> None:
    """Saves rows of pictures as one PNG.

    Args:
        rows: each float [N, 3, S, S] in [-1, 1], RGB, all of one shape.
        path: the PNG.

    Raises:
        OutputError: where it cannot be written.
    """
    strips = [torch.cat(list(to_bytes(row)), dim=2) for row in rows]
    picture = torch.cat(strips, dim=1).permute(1, 2, 0).cpu().numpy()[..., ::-1]
    _, stream = cv2.imencode(".png", np.ascontiguousarray(picture))
    write_atomically(path, stream.tobytes())
