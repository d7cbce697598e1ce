"""What a run leaves in its folder besides checkpoints: configuration, metrics, sample grids."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from dtir_sdk.errors import ConfigurationError, OutputError
from torch import Tensor

from dtir_train.channel import to_bytes
from dtir_train.configuration import Configuration

CONFIGURATION_NAME = "configuration.json"
METRICS_NAME = "metrics.csv"


def write_configuration(folder: Path, configuration: Configuration) -> None:
    """Saves a run's configuration as JSON, atomically.

    Raises:
        OutputError: where the folder cannot be written.
    """
    path = folder / CONFIGURATION_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(configuration.to_json(), indent=2) + "\n")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: could not be written ({error})") from error


def read_configuration(folder: Path) -> Configuration:
    """Reads the configuration of a run.

    Raises:
        ConfigurationError: where there is none, or it cannot be read.
    """
    path = folder / CONFIGURATION_NAME
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigurationError(f"{folder}: no run there ({path.name} is missing)") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: not JSON ({error})") from error
    return Configuration.from_json(values, path)


class MetricsFile:
    """Appends a line a step to `metrics.csv`; a resumed run drops the lines after its step.

    Args:
        folder: of the run.
        step: steps done already.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / METRICS_NAME
        self._columns: list[str] = []
        if not self._path.is_file():
            return
        with self._path.open(newline="") as file:
            rows = csv.DictReader(file)
            self._columns = list(rows.fieldnames or ())
            # A kill may have cut the last line short: such a line has no step that reads.
            kept = [
                row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= step
            ]
        if self._columns:
            self._write(kept, "w")

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of a step; a first step with new names starts new columns.

        Raises:
            OutputError: where the file cannot be written.
        """
        row = {"step": str(step)} | {name: f"{value:.6g}" for name, value in values.items()}
        new = [name for name in row if name not in self._columns]
        if not new:
            self._write([row], "a")
            return
        rows: list[dict[str, str]] = []
        if self._path.is_file():
            with self._path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        self._columns += new
        self._write([*rows, row], "w")

    def _write(self, rows: list[dict[str, str]], mode: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open(mode, newline="") as file:
                writer = csv.DictWriter(file, self._columns, restval="")
                if mode == "w":
                    writer.writeheader()
                writer.writerows(rows)
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stream.tobytes())
    except OSError as error:
        raise OutputError(f"{path}: could not be written ({error})") from error
