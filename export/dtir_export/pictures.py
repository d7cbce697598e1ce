"""The real pictures that an export is judged by, and that INT8 is calibrated on.

Noise would prove nothing: the networks' activations on it are unlike those on pictures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.errors import DataError, PictureError
from dtir_sdk.faces import FaceFinder
from dtir_sdk.files import reason
from dtir_sdk.pictures import SUFFIXES, decode_picture, swap_colors
from dtir_train.configuration import Configuration
from dtir_train.datasets.crops import square_crop
from dtir_train.datasets.decoded import GENERATED, seed_of
from dtir_train.datasets.generated import generated_secret
from dtir_train.datasets.sources import Entry, open_source

Split = Literal["train", "test"]


@dataclass(frozen=True)
class GatePictures:
    """Private pictures as the transfer generator takes them.

    Attributes:
        pictures: uint8 [N, S, S, 3], RGB, N of 1 or more.
        origins: names of what they were taken from, without their folders, in the order in which
            the sources were named.
    """

    pictures: NDArray[np.uint8]
    origins: tuple[str, ...]


@dataclass(frozen=True)
class PictureSources:
    """Where private pictures come from, and how they are cut out.

    Attributes:
        names: paths of pictures, folders and zips, or `generated` where that is allowed.
        size: side S of the crops.
        align: cut the largest face out as the SDK does; off takes whole pictures.
        seed: of the run whose sources they are, which may be `generated`; None for others.
    """

    names: tuple[str, ...]
    size: int
    align: bool
    seed: int | None = None

    def take(self, count: int, split: Split | None = None) -> GatePictures:
        """Takes pictures evenly from the sources.

        Those without a face are left out, where faces are cut out.

        Args:
            count: how many to take at most, over all sources.
            split: take pictures of this split only, so that no picture is in both; None prefers
                test pictures where a source tells them apart.

        Raises:
            DataError: there are no pictures to be had, or a source is broken.
            PictureError: a file is no picture, or no face was found in any of them.
        """
        finder = FaceFinder() if self.align else None
        share = math.ceil(count / len(self.names))
        taken = [self._take_from(name, share, split, finder) for name in self.names]
        rounds = itertools.chain(*itertools.zip_longest(*taken))
        chosen = list(itertools.islice(filter(None, rounds), count))
        if not chosen:
            raise PictureError(
                f"{', '.join(self.names)}: no face found in any picture: name others with "
                "--pictures"
            )
        given = {origin for origin, _ in chosen}
        origins = dict.fromkeys(Path(name).name for name in self.names if name in given)
        return GatePictures(np.stack([picture for _, picture in chosen]), tuple(origins))

    def _take_from(
        self, name: str, count: int, split: Split | None, finder: FaceFinder | None
    ) -> list[tuple[str, NDArray[np.uint8]]]:
        """Pictures of a source, each beside its name."""
        if name == GENERATED and self.seed is not None:
            drawn, _ = generated_secret(count, self.size, seed_of(self.seed, split or "test"))
            return [(name, picture) for picture in drawn]
        read = _read(Path(name), count, split)
        crops = (
            square_crop(decode_picture(data, where), self.size, finder) for where, data in read
        )
        return [(name, swap_colors(crop)) for crop in crops if crop is not None]


def run_sources(configuration: Configuration, paths: Sequence[Path]) -> PictureSources:
    """Returns what the user names, or else the run's own sources, cut out as in training.

    Args:
        configuration: of the run.
        paths: pictures, folders and zips; none takes the configuration's private sources.

    Raises:
        DataError: the run's pictures are not there any more.
    """
    data, size = configuration.data, configuration.networks.image_size
    if paths:
        # A file or folder of the user's may well be called "generated".
        return PictureSources(tuple(map(str, paths)), size, data.align)
    missing = [name for name in data.secret if name != GENERATED and not Path(name).exists()]
    if missing:
        raise DataError(
            f"{', '.join(missing)}: the run's pictures are not there any more, and an export "
            "is judged on real pictures: name some with --pictures"
        )
    return PictureSources(data.secret, size, data.align, configuration.seed)


def _read(path: Path, count: int, split: Split | None) -> list[tuple[str, bytes]]:
    """Where each of `count` pictures comes from, and its file's bytes."""
    try:
        if path.suffix.lower() in SUFFIXES and path.is_file():
            if split is not None:
                raise DataError(
                    f"{path} is a single picture, and INT8 is calibrated on some and judged on "
                    "others: name a folder or zip of pictures"
                )
            return [(str(path), path.read_bytes())]
    except OSError as error:
        raise PictureError(f"{path} could not be read: {reason(error)}") from error
    source = open_source(path, None)
    entries = _of_split(source.entries, split)
    if not entries:
        raise DataError(
            f"{path} has no {split} pictures, and INT8 is calibrated on its training pictures and "
            "judged on its test pictures: name a folder or zip that has both"
        )
    positions = np.linspace(0, len(entries) - 1, min(count, len(entries))).round().astype(int)
    chosen = [entries[position] for position in positions]
    names = [f"{path}/{entry.name}" for entry in chosen]
    return list(zip(names, source.read(chosen), strict=True))


def _of_split(entries: Sequence[Entry], split: Split | None) -> Sequence[Entry]:
    if split is None:
        return _of_split(entries, "test") or entries
    return [entry for entry in entries if entry.split == split]
