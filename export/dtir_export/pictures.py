"""The real pictures that an export is judged by.

Noise would prove nothing: the networks' activations on it are unlike those on pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.errors import DataError, PictureError
from dtir_sdk.faces import FaceFinder
from dtir_sdk.pictures import decode_picture, swap_colors
from dtir_train.configuration import Configuration
from dtir_train.datasets.crops import square_crop
from dtir_train.datasets.decoded import GENERATED
from dtir_train.datasets.generated import generated_secret
from dtir_train.datasets.sources import PICTURE_SUFFIXES, open_source


@dataclass(frozen=True)
class GatePictures:
    """Private pictures as the transfer generator takes them.

    Attributes:
        pictures: uint8 [N, S, S, 3], RGB, N of 1 or more.
        origins: names of what they were taken from, without their folders.
    """

    pictures: NDArray[np.uint8]
    origins: tuple[str, ...]


def gate_pictures(configuration: Configuration, paths: Sequence[Path], count: int) -> GatePictures:
    """Takes pictures evenly from what the user names, or else from the run's own sources.

    Test pictures are preferred to training pictures where a source tells them apart. Pictures
    are cut out as in training: by the SDK's alignment unless the run's configuration says
    otherwise; those without a face are left out.

    Args:
        configuration: of the run.
        paths: pictures, folders and zips; none takes the configuration's private sources.
        count: how many pictures to take at most, over all sources.

    Raises:
        DataError: there are no pictures to be had, or a source is broken.
        PictureError: a file is no picture, or no face was found in any of them.
    """
    names = [str(path) for path in paths] or list(configuration.data.secret)
    if not paths:
        missing = [name for name in names if name != GENERATED and not Path(name).exists()]
        if missing:
            raise DataError(
                f"{', '.join(missing)}: the run's pictures are not there any more, and an export "
                "is judged on real pictures: name some with --pictures"
            )
    size = configuration.networks.image_size
    finder = FaceFinder() if configuration.data.align else None
    share = math.ceil(count / len(names))
    pictures: list[NDArray[np.uint8]] = []
    for name in names:
        # A file or folder of the user's may well be called "generated".
        if name == GENERATED and not paths:
            drawn, _ = generated_secret(share, size, configuration.seed)
            pictures += list(drawn)
            continue
        for where, data in _read(Path(name), share):
            crop = square_crop(decode_picture(data, where), size, finder)
            if crop is not None:
                pictures.append(swap_colors(crop))
    if not pictures:
        raise PictureError(
            f"{', '.join(names)}: no face found in any picture: name others with --pictures"
        )
    return GatePictures(
        np.stack(pictures[:count]), tuple(dict.fromkeys(Path(name).name for name in names))
    )


def _read(path: Path, count: int) -> list[tuple[str, bytes]]:
    """Where each of `count` pictures comes from, and its file's bytes."""
    if path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES:
        try:
            return [(str(path), path.read_bytes())]
        except OSError as error:
            raise PictureError(f"{path} could not be read") from error
    source = open_source(path, None)
    entries = [entry for entry in source.entries if entry.split == "test"] or source.entries
    positions = np.linspace(0, len(entries) - 1, min(count, len(entries))).round().astype(int)
    chosen = [entries[position] for position in positions]
    names = [f"{path}/{entry.name}" for entry in chosen]
    return list(zip(names, source.read(chosen), strict=True))
