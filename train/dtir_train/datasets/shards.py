"""Decoded pictures in files of a thousand: written one after the other, read as one array.

Each shard is `NNNNN.npy` with the pictures and `NNNNN.json` with their positions among all that
were to be decoded; it counts once the latter is there. So decoding goes on where it was stopped,
several processes can each do some of the shards, and no more than one is held in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import EllipsisType

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from dtir_sdk.errors import DataError, OutputError
from dtir_sdk.files import replacing, write_atomically

SHARD = 1024

_Index = int | slice | EllipsisType | NDArray[np.int64] | tuple[object, ...]


class Shards:
    """Pictures of several arrays, indexed as one; what is asked for is copied, the rest not read.

    Args:
        parts: each uint8 [n, S, S, 4]; memory maps, or arrays.
    """

    def __init__(self, parts: Sequence[NDArray[np.uint8]]) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    @property
    def parts(self) -> tuple[NDArray[np.uint8], ...]:
        """The arrays, in order."""
        return self._parts

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape [N, S, S, 4] of all together."""
        return (len(self), *self._parts[0].shape[1:])

    def __len__(self) -> int:
        """Number of pictures."""
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Gives the pictures one after the other."""
        for part in self._parts:
            yield from part

    def __getitem__(self, index: _Index) -> NDArray[np.uint8]:
        """Reads pictures, by the rules of NumPy; an index of several axes first reads all."""
        if isinstance(index, tuple | EllipsisType):
            everything = self._at(np.arange(len(self)))
            return everything[index]  # type: ignore[index]
        chosen = np.arange(len(self))[index]
        return self._at(np.atleast_1d(chosen)).reshape(*chosen.shape, *self.shape[1:])

    def __array__(
        self, dtype: np.dtype[np.uint8] | None = None, copy: bool | None = None
    ) -> NDArray[np.uint8]:
        """Reads all of them."""
        if copy is False:
            raise ValueError("the shards are no single array: they can only be copied")
        return self[...].astype(dtype or np.uint8, copy=False)

    def _at(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        pictures = np.empty((len(positions), *self.shape[1:]), np.uint8)
        owners = np.searchsorted(self._ends, positions, side="right")
        for owner in np.unique(owners):
            mine = owners == owner
            part = self._parts[owner]
            pictures[mine] = part[positions[mine] - (self._ends[owner] - len(part))]
        return pictures


def missing_shards(folder: Path, count: int, rank: int, processes: int) -> list[range]:
    """Lists what a process is to decode.

    Args:
        folder: of the shards.
        count: of the pictures in all.
        rank: of this process.
        processes: that share the work.

    Returns:
        The positions of each shard that falls to this process and is not whole yet.
    """
    mine = _shards(count)[rank::processes]
    return [positions for positions in mine if not _index(folder, positions).is_file()]


def write_shards(
    folder: Path, shards: Sequence[range], pictures: Iterator[NDArray[np.uint8] | None]
) -> None:
    """Writes shards, each as soon as it is decoded.

    Args:
        folder: of the shards; made if it is not there.
        shards: positions of each.
        pictures: in the order of these positions, uint8 [S, S, 4]; None is left out.

    Raises:
        OutputError: where they cannot be written, a full disk for example; those before are kept.
    """
    for positions in shards:
        decoded = list(islice(pictures, len(positions)))
        both = zip(positions, decoded, strict=True)
        kept = [position for position, picture in both if picture is not None]
        found = [picture for picture in decoded if picture is not None]
        try:
            if found:
                with replacing(_pictures(folder, positions)) as temporary:
                    np.save(temporary, np.stack(found))
            write_atomically(_index(folder, positions), json.dumps(kept).encode())
        except OutputError as error:
            raise OutputError(
                f"the decoded pictures are not kept: {error}: free the disk, or name another "
                "folder in DTIR_CACHE"
            ) from error


def read_shards(folder: Path, count: int, size: int) -> tuple[Shards | None, list[int]]:
    """Maps whole shards into memory.

    Args:
        folder: of the shards.
        count: of the pictures that were to be decoded.
        size: side S in pixels.

    Returns:
        The pictures, read-only, or None where none was kept; and the position of each among all.

    Raises:
        DataError: where a file is damaged.
    """
    parts, kept = [], []
    for positions in _shards(count):
        try:
            here = json.loads(_index(folder, positions).read_bytes())
            if not here:
                continue
            part = open_memmap(_pictures(folder, positions), mode="r")
            if part.shape != (len(here), size, size, 4) or part.dtype != np.uint8:
                raise ValueError(f"{part.dtype} {list(part.shape)}")
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{_pictures(folder, positions)}: the decoded pictures are damaged ({error}): "
                "delete this folder, and they are decoded again"
            ) from error
        parts.append(part)
        kept += here
    return (Shards(parts) if parts else None), kept


def _shards(count: int) -> list[range]:
    return [range(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]


def _pictures(folder: Path, positions: range) -> Path:
    return folder / f"{positions.start // SHARD:05}.npy"


def _index(folder: Path, positions: range) -> Path:
    return folder / f"{positions.start // SHARD:05}.json"
