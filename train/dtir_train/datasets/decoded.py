"""The two domains' pictures of a split, decoded, with their labels; all sources together."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.errors import ConfigurationError, DataError
from dtir_train.configuration import Data
from dtir_train.datasets.decoding import decode
from dtir_train.datasets.generated import LABELS, generated_secret, generated_target
from dtir_train.datasets.shards import Shards
from dtir_train.datasets.sources import Entry, Source, open_source
from dtir_train.distributed import ALONE, World

GENERATED = "generated"
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
            faces cut out on white); decoded ones are read from the disk as they are asked for.
        labels: int64 [N], positions in `label_names`; zeros where the set has no labels.
        label_names: names of the classes, empty where the set has no labels.
        names: where each picture came from.
        not_found: pictures left out since no face was found in them.
    """

    pictures: NDArray[np.uint8] | Shards
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
    world: World = ALONE,
) -> Pictures:
    """Loads the secret domain's pictures of a split, all sources together.

    Args:
        data: names the sources, the attribute and how to cut faces out.
        size: side S in pixels.
        split: "train", "validation" (held out of the training split by name) or "test".
        seed: of the generated pair.
        original_size: width and height in pixels that the pictures had before they were squeezed
            to another shape; they are stretched back to it. None takes them as they are.
        world: the processes that share the decoding; each must call this.

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
    sources = world.together(lambda: _opened(data.secret, data.attribute))
    classes = {entry.label for source in sources for entry in source.entries}
    values = tuple(sorted(classes.union(LABELS if GENERATED in data.secret else ()), key=_natural))
    if len(values) < 2:
        raise DataError(
            f"{', '.join(data.secret)}: `{data.attribute}` has one class only "
            f"({', '.join(values)}): there is nothing to recognise"
        )
    names = _label_names(data, values)
    parts = []
    for source in sources:
        entries = _split(source.entries, data, split)
        if entries:
            parts.append(_decode(source, entries, size, data.align, original_size, world))
    if GENERATED in data.secret:
        pictures, labels = generated_secret(_GENERATED_COUNTS[split], size, _seed_of(seed, split))
        parts.append(_generated_part(pictures, tuple(LABELS[label] for label in labels)))
    return _joined(parts, names, values, f"{', '.join(data.secret)}, split {split}")


def load_target(data: Data, size: int, split: str, seed: int = 0, world: World = ALONE) -> Pictures:
    """Loads the target domain's pictures of a split; arguments and errors as `load_secret`.

    Faces are not looked for: target pictures are resized only.
    """
    parts = []
    for source in world.together(lambda: _opened(data.target, None)):
        entries = _split(source.entries, data, split)
        if entries:
            parts.append(_decode(source, entries, size, False, None, world))
    if GENERATED in data.target:
        count = _GENERATED_COUNTS[split]
        pictures = generated_target(count, size, _seed_of(seed, split))
        parts.append(_generated_part(pictures, ("",) * count))
    return _joined(parts, (), (), f"{', '.join(data.target)}, split {split}")


def _opened(paths: tuple[str, ...], attribute: str | None) -> list[Source]:
    return [open_source(Path(path), attribute) for path in paths if path != GENERATED]


@dataclass(frozen=True)
class _Part:
    """A source's pictures of a split: as `Pictures`, with labels as the source writes them."""

    pictures: tuple[NDArray[np.uint8], ...]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    not_found: int = 0


def _generated_part(pictures: NDArray[np.uint8], labels: tuple[str, ...]) -> _Part:
    alpha = np.full((*pictures.shape[:3], 1), 255, np.uint8)
    drawn = np.concatenate([pictures, alpha], axis=3)
    return _Part((drawn,), labels, (GENERATED,) * len(pictures))


def _joined(
    parts: list[_Part], names: tuple[str, ...], values: tuple[str, ...], where: str
) -> Pictures:
    if not parts:
        hint = ": hold out more with --data.validation" if where.endswith("validation") else ""
        raise DataError(f"{where}: no pictures{hint}")
    pictures = Shards([pictures for part in parts for pictures in part.pictures])
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
    original_size: tuple[int, int] | None,
    world: World,
) -> _Part:
    pictures, kept = decode(source, entries, size, align, original_size, world)
    labels = tuple(entries[position].label for position in kept)
    names = tuple(f"{source.path}/{entries[position].name}" for position in kept)
    return _Part(pictures.parts, labels, names, len(entries) - len(kept))
