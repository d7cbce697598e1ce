"""Decodes a source once: reads, aligns, resizes, and keeps the bytes in memory-mapped shards.

They lie in a folder of the cache (`$DTIR_CACHE`, else the system's place for caches) under a name
made of everything that their content depends on, so that a changed source is decoded anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path
from rich.markup import escape
from rich.progress import Progress

from dtir_sdk.errors import DataError, OutputError, PictureError
from dtir_sdk.faces import FaceFinder
from dtir_sdk.pictures import decode_picture
from dtir_train.datasets.crops import square_crop
from dtir_train.datasets.shards import Shards, missing_shards, read_shards, write_shards
from dtir_train.datasets.sources import Entry, Source
from dtir_train.distributed import World

_DECODER_VERSION = 3
_MOST_NAMED = 10


def decode(
    source: Source,
    entries: Sequence[Entry],
    size: int,
    align: bool,
    original_size: tuple[int, int] | None,
    world: World,
) -> tuple[Shards, list[int]]:
    """Decodes pictures, where that has not been done, and maps them into memory.

    The processes of a world share the work: first all of them, who may use one cache, then those
    of each machine, who do what another machine has put into a cache of its own.

    Args:
        source: of the entries.
        entries: 1 or more.
        size: side S in pixels.
        align: cut the largest face out; a picture without one is left out.
        original_size: width and height to stretch each picture to first, or None.
        world: the processes, each of which must call this with the same arguments.

    Returns:
        The pictures, uint8 [N, S, S, 4], RGB and foreground; and their positions in `entries`.

    Raises:
        DataError: where pictures cannot be read, of which those of a shard are named, up to ten;
            where none has a face, or the cache is damaged.
        OutputError: where the cache cannot be written.
    """
    folder = world.together(lambda: _folder(source, entries, size, align, original_size))

    def decode_share(rank: int, processes: int) -> None:
        mine = missing_shards(folder, len(entries), rank, processes)
        chosen = [[entries[position] for position in shard] for shard in mine]
        # Names may look like rich's markup.
        task = escape(f"decoding {source.path.name}")
        # Ended here: after an error the garbage collector would end what is left open, threads and
        # bar, and wait for ever where it runs while a thread starts, or another bar is drawn.
        with (
            Progress(disable=not mine or world.local_rank > 0) as bar,
            closing(_pictures(source, chosen, size, align, original_size)) as pictures,
        ):
            shown = bar.track(pictures, sum(map(len, mine)), description=task)
            write_shards(folder, mine, iter(shown))

    world.together(lambda: decode_share(world.rank, world.size))
    if world.local_size < world.size:
        world.together(lambda: decode_share(world.local_rank, world.local_size))
    pictures, kept = world.together(lambda: read_shards(folder, len(entries), size))
    if pictures is None:
        raise DataError(
            f"{source.path}: no face found in any picture: for pictures that are not faces "
            "there is --no-align (--data.no-align of `dtir-train fit`)"
        )
    return pictures, kept


def _folder(
    source: Source,
    entries: Sequence[Entry],
    size: int,
    align: bool,
    original_size: tuple[int, int] | None,
) -> Path:
    content = [
        _DECODER_VERSION,
        str(source.path.resolve()),
        source.changed(entries),
        size,
        align,
        original_size,
        [entry.name for entry in entries],
    ]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
    try:
        named = os.environ.get("DTIR_CACHE")
        cache = Path(named).expanduser() if named else user_cache_path("dtir", appauthor=False)
    except RuntimeError as error:
        raise OutputError(
            f"there is no place for decoded pictures ({error}): set DTIR_CACHE to a folder"
        ) from error
    return cache / "pictures" / key


def _pictures(
    source: Source,
    shards: Sequence[Sequence[Entry]],
    size: int,
    align: bool,
    original_size: tuple[int, int] | None,
) -> Generator[NDArray[np.uint8] | None]:
    """Decodes the entries of some shards in order, in threads, holding a shard's at most."""
    threads = os.cpu_count() or 1
    finder = FaceFinder(at_once=threads) if align else None

    def decoded(item: tuple[Entry, bytes]) -> NDArray[np.uint8] | PictureError | None:
        entry, stream = item
        try:
            picture = decode_picture(stream, f"{source.path}/{entry.name}")
        except PictureError as error:
            return error
        if original_size is not None:
            stretched = cv2.resize(picture, original_size, interpolation=cv2.INTER_CUBIC)
            picture = stretched.astype(np.uint8, copy=False)
        crop = square_crop(picture, size, finder)
        return None if crop is None else _with_foreground(crop, align)

    streams = source.read([entry for entries in shards for entry in entries])
    with ThreadPoolExecutor(threads) as pool:
        for entries in shards:
            # The pool reads ahead all that it is given.
            here = islice(streams, len(entries))
            broken = []
            for picture in pool.map(decoded, zip(entries, here, strict=True)):
                if isinstance(picture, PictureError):
                    broken.append(picture)
                else:
                    yield picture
            if broken:
                raise _unreadable(broken)


def _unreadable(errors: Sequence[PictureError]) -> DataError:
    named = "; ".join(map(str, errors[:_MOST_NAMED]))
    if len(errors) > _MOST_NAMED:
        named += f"; and {len(errors) - _MOST_NAMED} more"
    them = "it" if len(errors) == 1 else "them"
    return DataError(f"{named}: restore {them}, or take {them} out of the source")


def _with_foreground(crop: NDArray[np.uint8], face: bool) -> NDArray[np.uint8]:
    """BGR [S, S, 3] to RGB and foreground [S, S, 4]; only faces can be cut out on white."""
    alpha = _foreground(crop) if face else np.full(crop.shape[:2], 255, np.uint8)
    return np.dstack([crop[..., ::-1], alpha]).astype(np.uint8, copy=False)


def _foreground(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How much of each pixel of a face cut out on white is face: uint8 [S, S]; else all 255."""
    size = crop.shape[0]
    white = (crop.min(axis=2) >= 240).astype(np.uint8)
    edge = np.concatenate([white[0], white[: size // 2, 0], white[: size // 2, -1]])
    if edge.mean() < 0.35:
        return np.full((size, size), 255, np.uint8)
    # Only white that hangs together with the border is background: not teeth, not eyes.
    _, regions = cv2.connectedComponents(white, connectivity=4)
    border = np.unique(np.concatenate([regions[0], regions[:, 0], regions[:, -1], regions[-1]]))
    background = np.isin(regions, border[border > 0]).astype(np.uint8)
    grown = cv2.dilate(background, np.ones((3, 3), np.uint8))
    soft = cv2.GaussianBlur((1 - grown).astype(np.float32), (0, 0), 0.8)
    return np.round(soft * 255).astype(np.uint8)
