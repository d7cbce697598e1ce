"""Decodes a source once: reads, aligns, resizes, and keeps the bytes in a memory-mapped file.

The file lies in the cache folder (`$DTIR_CACHE`, else `~/.cache/dtir`) under a name made of
everything that its content depends on, so that a changed source is decoded anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from dtir_sdk.errors import ConfigurationError, DataError, OutputError, PictureError
from dtir_sdk.faces import FaceFinder
from dtir_sdk.pictures import decode_picture
from dtir_train.configuration import Data
from dtir_train.datasets.crops import square_crop
from dtir_train.datasets.generated import LABELS, generated_secret, generated_target
from dtir_train.datasets.sources import Entry, Source, open_source

GENERATED = "generated"
_DECODER_VERSION = 1
_LONGEST_SIDE = 10_000
_GENERATED_COUNTS = {"train": 512, "validation": 64, "test": 128}
_KNOWN_LABELS: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {
    ("male", ("0", "1")): ("female", "male"),
}


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures of one split.

    Attributes:
        pictures: uint8 [N, S, S, 4], RGB and how much of each pixel is foreground (255 but for
            faces cut out on white); often a memory map, read-only.
        labels: int64 [N], positions in `label_names`; zeros where the set has no labels.
        label_names: names of the classes, empty where the set has no labels.
        names: where each picture came from.
        not_found: pictures left out since no face was found in them.
    """

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    names: tuple[str, ...]
    not_found: int = 0

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures)


def load_secret(
    data: Data,
    size: int,
    split: str,
    seed: int = 0,
    original_size: tuple[int, int] | None = None,
) -> Pictures:
    """Loads the secret domain's pictures of a split, all sources together.

    Args:
        data: names the sources, the attribute and how to cut faces out.
        size: side S in pixels.
        split: "train", "validation" (held out of the training split by name) or "test".
        seed: of the generated pair.
        original_size: width and height in pixels that the pictures had before they were squeezed
            to another shape; they are stretched back to it. None takes them as they are.

    Raises:
        ConfigurationError: for an original size that no picture has.
        DataError: where a source is broken, sources disagree on the labels, or there is only one
            class.
        OutputError: where the cache cannot be written.
    """
    if original_size is not None and not all(1 <= side <= _LONGEST_SIDE for side in original_size):
        raise ConfigurationError(
            f"original_size is {original_size[0]} x {original_size[1]}: each side must be from 1 "
            f"to {_LONGEST_SIDE} pixels"
        )
    parts = []
    classes: set[str] = set()
    sources = []
    for source in data.secret:
        if source == GENERATED:
            classes.update(LABELS)
            continue
        opened = open_source(Path(source), data.attribute)
        sources.append(opened)
        classes.update(entry.label for entry in opened.entries)
    values = tuple(sorted(classes, key=_natural))
    if len(values) < 2:
        raise DataError(
            f"{', '.join(data.secret)}: `{data.attribute}` has one class only "
            f"({', '.join(values)}): there is nothing to recognise"
        )
    names = _label_names(data, values)
    for opened in sources:
        entries = _split(opened.entries, data, split)
        if entries:
            parts.append(_decode(opened, entries, size, data.align, original_size))
    if GENERATED in data.secret:
        pictures, labels = generated_secret(_GENERATED_COUNTS[split], size, _seed_of(seed, split))
        parts.append(_generated_part(pictures, tuple(LABELS[label] for label in labels)))
    return _joined(parts, names, values, f"{', '.join(data.secret)}, split {split}")


def load_target(data: Data, size: int, split: str, seed: int = 0) -> Pictures:
    """Loads the target domain's pictures of a split; arguments and errors as `load_secret`.

    Faces are not looked for: target pictures are resized only.
    """
    parts = []
    for source in data.target:
        if source == GENERATED:
            count = _GENERATED_COUNTS[split]
            pictures = generated_target(count, size, _seed_of(seed, split))
            parts.append(_generated_part(pictures, ("",) * count))
            continue
        opened = open_source(Path(source), None)
        entries = _split(opened.entries, data, split)
        if entries:
            parts.append(_decode(opened, entries, size, align=False))
    return _joined(parts, (), (), f"{', '.join(data.target)}, split {split}")


@dataclass(frozen=True)
class _Part:
    """A source's pictures of a split: as `Pictures`, with labels as the source writes them."""

    pictures: NDArray[np.uint8]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    not_found: int = 0


def _generated_part(pictures: NDArray[np.uint8], labels: tuple[str, ...]) -> _Part:
    alpha = np.full((*pictures.shape[:3], 1), 255, np.uint8)
    return _Part(np.concatenate([pictures, alpha], axis=3), labels, (GENERATED,) * len(pictures))


def _joined(
    parts: list[_Part], names: tuple[str, ...], values: tuple[str, ...], where: str
) -> Pictures:
    if not parts:
        hint = ": hold out more with --data.validation" if where.endswith("validation") else ""
        raise DataError(f"{where}: no pictures{hint}")
    stacks = [part.pictures for part in parts]
    pictures = stacks[0] if len(stacks) == 1 else np.concatenate(stacks)
    positions = {value: position for position, value in enumerate(values)}
    texts = [text for part in parts for text in part.labels]
    labels = np.array([positions.get(text, 0) for text in texts], np.int64)
    kept = tuple(name for part in parts for name in part.names)
    return Pictures(pictures, labels, names, kept, sum(part.not_found for part in parts))


def _label_names(data: Data, values: tuple[str, ...]) -> tuple[str, ...]:
    if data.labels is not None:
        if len(data.labels) != len(values):
            raise DataError(
                f"labels names {len(data.labels)} classes ({', '.join(data.labels)}), the data "
                f"has {len(values)} ({', '.join(values[:10])})"
            )
        return data.labels
    known = _KNOWN_LABELS.get((data.attribute.lower(), values))
    if known is not None:
        return known
    if values == ("0", "1"):
        name = data.attribute.lower().replace("_", " ")
        return (f"not {name}", name)
    return values


def _natural(value: str) -> tuple[int, str]:
    return (int(value), "") if value.isdecimal() and len(value) < 20 else (1 << 62, value)


def _seed_of(seed: int, split: str) -> int:
    return seed * 3 + ("train", "validation", "test").index(split)


def _split(entries: tuple[Entry, ...], data: Data, split: str) -> list[Entry]:
    wanted = "test" if split == "test" else "train"
    held_out = round(data.validation * 10_000)
    chosen = []
    for entry in entries:
        # A hash of the name: the same pictures are held out whatever else is in the source.
        validation = zlib.crc32(entry.name.encode()) % 10_000 < held_out
        if entry.split == wanted and (wanted == "test" or validation == (split == "validation")):
            chosen.append(entry)
    return chosen[: data.limit]


def _decode(
    source: Source,
    entries: list[Entry],
    size: int,
    align: bool,
    original_size: tuple[int, int] | None = None,
) -> _Part:
    parts: list[object] = [
        _DECODER_VERSION,
        str(source.path.resolve()),
        source.changed(entries),
        size,
        align,
        [(entry.name, entry.label) for entry in entries],
    ]
    identity = json.dumps(parts if original_size is None else [*parts, original_size])
    key = hashlib.sha256(identity.encode()).hexdigest()[:24]
    cache = Path(os.environ.get("DTIR_CACHE") or Path.home() / ".cache" / "dtir") / "pictures"
    file, index = cache / f"{key}.npy", cache / f"{key}.json"
    if not (file.is_file() and index.is_file()):
        _write_cache(source, entries, size, align, original_size, file, index)
    kept = json.loads(index.read_text())
    pictures: NDArray[np.uint8] = np.load(file, mmap_mode="r")
    labels = tuple(entries[position].label for position in kept)
    names = tuple(f"{source.path}/{entries[position].name}" for position in kept)
    return _Part(pictures, labels, names, len(entries) - len(kept))


def _write_cache(
    source: Source,
    entries: list[Entry],
    size: int,
    align: bool,
    original_size: tuple[int, int] | None,
    file: Path,
    index: Path,
) -> None:
    finder = FaceFinder() if align else None

    def decode(item: tuple[Entry, bytes]) -> NDArray[np.uint8] | None:
        entry, stream = item
        try:
            picture = decode_picture(stream, f"{source.path}/{entry.name}")
        except PictureError as error:
            raise DataError(f"{error}: restore it, or take it out of the source") from error
        if original_size is not None:
            stretched = cv2.resize(picture, original_size, interpolation=cv2.INTER_CUBIC)
            picture = stretched.astype(np.uint8, copy=False)
        crop = square_crop(picture, size, finder)
        return None if crop is None else _with_foreground(crop, align)

    kept: list[int] = []
    pictures: list[NDArray[np.uint8]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = pool.map(decode, zip(entries, source.read(entries), strict=True))
        task = f"decoding {source.path.name}"
        for position, picture in enumerate(track(jobs, task, total=len(entries))):
            if picture is not None:
                kept.append(position)
                pictures.append(picture)
    if not pictures:
        raise DataError(f"{source.path}: no face found in any picture: use --data.no-align")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            np.save(Path(folder) / file.name, np.stack(pictures))
            (Path(folder) / index.name).write_text(json.dumps(kept))
            (Path(folder) / file.name).replace(file)
            (Path(folder) / index.name).replace(index)
    except OSError as error:
        raise OutputError(
            f"{file.parent}: the decoded pictures could not be written ({error}): free the disk, "
            "or name another folder in DTIR_CACHE"
        ) from error


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
