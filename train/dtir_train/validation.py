"""Looks at held-out pictures in the course of a run: figures, and a grid of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torchmetrics.functional.image import peak_signal_noise_ratio

from dtir_train.channel import send
from dtir_train.datasets import Batch, Pictures
from dtir_train.datasets.batches import photos_of
from dtir_train.distributed import World
from dtir_train.run_folder import save_grid
from dtir_train.system import System

_GRID_COLUMNS = 8
_VALIDATED_AT_ONCE = 64


@dataclass(frozen=True)
class Validation:
    """Measured on the validation split with averaged weights.

    Attributes:
        accuracy: share of labels read right from cartoons, in [0, 1].
        psnr: of restored photos against photos, in decibels.
    """

    accuracy: float
    psnr: float


@torch.no_grad()
def validate(system: System, pictures: Pictures, fabric: Fabric, world: World) -> Validation:
    """Measures a share of the pictures in each process, and sums up.

    Args:
        system: as far as it is trained.
        pictures: held out.
        fabric: where to compute.
        world: the processes that share the work; all of them call this.
    """
    transfer, recognizer, restorer = map(system.averaged, ("transfer", "recognizer", "restorer"))
    recipe = system.configuration.recipe
    right, psnr = 0.0, 0.0
    parts = np.array_split(np.arange(len(pictures)), math.ceil(len(pictures) / _VALIDATED_AT_ONCE))
    for part in parts[world.rank :: world.size]:
        photos, labels = fabric.to_device(photos_of(pictures, part))
        with fabric.autocast():
            arrived = send(transfer(photos), True, recipe.jpeg_quality)
            right += float((recognizer(arrived).argmax(dim=1) == labels).sum())
            restored = send(restorer(arrived))
        each = peak_signal_noise_ratio(
            restored, photos, data_range=(-1.0, 1.0), reduction="none", dim=(1, 2, 3)
        )
        psnr += float(each.sum())
    rights, psnrs = zip(*world.gather((right, psnr)), strict=True)
    return Validation(sum(rights) / len(pictures), sum(psnrs) / len(pictures))


@torch.no_grad()
def save_samples(
    system: System, pictures: Pictures | None, batch: Batch, fabric: Fabric, folder: Path
) -> None:
    """Saves a grid: photos, cartoons and restored, held out and of a batch; and target pictures.

    Args:
        system: as far as it is trained.
        pictures: held out; None where there are none.
        batch: what was trained on last.
        fabric: where to compute.
        folder: of the run.

    Raises:
        OutputError: where it cannot be written.
    """
    transfer, restorer = system.averaged("transfer"), system.averaged("restorer")
    shown = [batch.photos[:_GRID_COLUMNS]]
    if pictures is not None:
        spread = np.arange(0, len(pictures), max(1, len(pictures) // _GRID_COLUMNS))
        photos, _ = fabric.to_device(photos_of(pictures, spread[:_GRID_COLUMNS]))
        shown.insert(0, photos)
    rows = []
    for photos in shown:
        with fabric.autocast():
            cartoons = send(transfer(photos))
            rows += [photos, cartoons, restorer(cartoons)]
    rows.append(batch.targets)
    width = min(_GRID_COLUMNS, *map(len, rows))
    save_grid([row[:width] for row in rows], folder / "samples" / f"{system.step:07d}.png")
