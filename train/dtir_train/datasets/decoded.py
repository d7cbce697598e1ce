"""The two domains' pictures of a split, decoded, with their labels; all sources together."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.errors import ConfigurationError, DataError
from dtir_train.configuration import Data
from dtir_train.datasets.decoding import decode
from dtir_train.datasets.generated import LABELS, generated_secret, generated_target
from dtir_train.datasets.shards import Shards
from dtir_train.datasets.sources import Domain, Entry, Source, open_source
from dtir_train.distributed import ALONE, World

GENERATED = "generated"
# In place of a label; PyTorch's cross-entropy leaves it out.
UNLABELLED = -100
_NUMBER = re.compile(r"-?\d{1,19}")
_LONGEST_SIDE = 10_000
_HINTS = {
    "validation": ": hold out more with --data.validation, or none with 0, or give more pictures",
    "test": ": name them in a column `split` of labels.csv",
}
_GENERATED_COUNTS = {"train": 512, "validation": 64, "test": 128}
_KNOWN_LABELS = {"male": ("female", "male")}


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures of one split.

    Attributes:
        pictures: uint8 [N, S, S, 4], RGB and how much of each pixel is foreground (255 but for
            faces cut out on white); decoded ones are read from the disk as they are asked for.
        labels: int64 [N], positions in `label_names`, UNLABELLED for pictures without one; zeros
            where the set has no labels.
        label_names: names of the classes, empty where the set has no labels.
        names: where each picture came from.
        left_out: where those pictures came from in which no face was found.
        remarks: what the sources' user should be told, a line each.
    """

    pictures: NDArray[np.uint8] | Shards
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pictures)


def pictures_sha256(*domains: Pictures) -> str:
    """Returns the SHA-256, in hexadecimal, of the pictures' names and labels, not of their pixels.

    Of a million pictures those would take minutes at every start.
    """
    named = [[*zip(one.names, one.labels.tolist(), strict=True)] for one in domains]
    return hashlib.sha256(repr(named).encode()).hexdigest()


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
        DataError: where a source is broken or named twice, sources disagree on the labels, or
            there is only one class.
        OutputError: where the cache cannot be written.
    """
    parts, classes = _secret_parts(data, size, split, seed, original_size, world)
    where = f"{', '.join(data.secret)}, split {split}"
    pictures = _joined([part for _, part in parts], classes, where)
    if split == "train" and len(np.unique(pictures.labels)) < 2:
        raise DataError(f"{where}: all pictures are of one class: there is nothing to learn")
    return pictures


def load_secret_by_source(data: Data, size: int, split: str, seed: int = 0) -> dict[str, Pictures]:
    """Loads each source of the secret domain by itself, with the labels of all of them together.

    Arguments and errors as `load_secret`; DataError also where a source has no picture of the
    split.
    """
    parts, classes = _secret_parts(data, size, split, seed, None, ALONE)
    return {
        source: _joined(
            [part for name, part in parts if name == source], classes, f"{source}, split {split}"
        )
        for source in data.secret
    }


@dataclass(frozen=True)
class _Classes:
    """The classes' names, and the value of the attribute that means each."""

    names: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


def _secret_parts(
    data: Data,
    size: int,
    split: str,
    seed: int,
    original_size: tuple[int, int] | None,
    world: World,
) -> tuple[list[tuple[str, _Part]], _Classes]:
    if original_size is not None and not all(1 <= side <= _LONGEST_SIDE for side in original_size):
        raise ConfigurationError(
            f"original_size is {original_size[0]} x {original_size[1]}: each side must be from 1 "
            f"to {_LONGEST_SIDE} pixels"
        )
    opened = world.together(lambda: _opened(data.secret, data.attribute, "secret"))
    sources = _with_one_no(opened)
    classes = _classes(data, sources)
    parts = []
    for name, source in sources:
        entries = entries_of(source.entries, data, split)
        if entries:
            part = _decode(source, entries, size, data.align, original_size, world)
            parts.append((name, part))
    if GENERATED in data.secret:
        count = generated_count(data, split)
        pictures, labels = generated_secret(count, size, seed_of(seed, split))
        texts = tuple(LABELS[label] for label in labels)
        parts.append((GENERATED, _generated_part(pictures, texts)))
    return parts, classes


def _with_one_no(sources: list[tuple[str, Source]]) -> list[tuple[str, Source]]:
    """Reads -1 as the 0 of others, for "has it not", as CelebA's own lists are read."""
    found = [{entry.label for entry in source.entries} for _, source in sources]
    if not set().union(*found) <= {"-1", "0", "1"} or any({"-1", "0"} <= each for each in found):
        return sources
    return [
        (name, source if source.labelled_by_folder else _without_minus(source))
        for name, source in sources
    ]


def _without_minus(source: Source) -> Source:
    entries = (
        replace(entry, label="0") if entry.label == "-1" else entry for entry in source.entries
    )
    return replace(source, entries=tuple(entries))


def _classes(data: Data, sources: list[tuple[str, Source]]) -> _Classes:
    found = {name: {entry.label for entry in source.entries} for name, source in sources}
    if GENERATED in data.secret:
        found[GENERATED] = set(LABELS)
    values = tuple(sorted(set().union(*found.values()), key=_natural))
    if len(values) < 2:
        raise DataError(
            f"{', '.join(data.secret)}: `{data.attribute}` has one class only "
            f"({', '.join(values)}): there is nothing to recognise"
        )
    # People of one source need not be in another; other labels are written alike everywhere.
    if data.labels is None and data.attribute.lower() != "identity":
        for (one, ones), (other, others) in combinations(found.items(), 2):
            if not ones & others and max(len(ones), len(others)) > 1:
                raise DataError(
                    f"{one} and {other} disagree on `{data.attribute}`: "
                    f"{', '.join(sorted(ones)[:10])} here, {', '.join(sorted(others)[:10])} there: "
                    "write it alike, or name all classes with `labels`"
                )
    # Folders are named by their owner: 0 and 1 mean what they say there.
    in_words = not any(source.labelled_by_folder for _, source in sources)
    return _Classes(_label_names(data, values, in_words), values)


def with_unlabelled(
    labelled: Pictures, data: Data, size: int, seed: int = 0, world: World = ALONE
) -> Pictures:
    """Adds the training pictures of the sources `data.unlabelled` to those that have a label.

    Args:
        labelled: the training pictures of `data.secret`.
        data: as for `load_secret`; so are the others, and the errors.
        size: side S in pixels.
        seed: of the generated pair.
        world: the processes that share the decoding.
    """
    if not data.unlabelled:
        return labelled
    world.together(lambda: _check_apart(data.secret, data.unlabelled))
    others = load_unlabelled(replace(data, secret=data.unlabelled), size, "train", seed, world)
    return Pictures(
        Shards([*_shards(labelled), *_shards(others)]),
        np.concatenate([labelled.labels, np.full(len(others), UNLABELLED, np.int64)]),
        labelled.label_names,
        labelled.names + others.names,
        labelled.left_out + others.left_out,
        labelled.remarks + others.remarks,
    )


def _shards(pictures: Pictures) -> tuple[NDArray[np.uint8], ...]:
    kept = pictures.pictures
    return kept.parts if isinstance(kept, Shards) else (kept,)


def load_unlabelled(
    data: Data, size: int, split: str, seed: int = 0, world: World = ALONE
) -> Pictures:
    """Loads the secret domain's pictures of a split without their labels, if they have any.

    Arguments and errors as `load_secret`.
    """

    def drawn(count: int) -> NDArray[np.uint8]:
        return generated_secret(count, size, seed_of(seed, split))[0]

    return _without_labels("secret", data, size, split, data.align, drawn, world)


def load_target(data: Data, size: int, split: str, seed: int = 0, world: World = ALONE) -> Pictures:
    """Loads the target domain's pictures of a split; arguments and errors as `load_secret`.

    Faces are not looked for: target pictures are resized only.
    """

    def drawn(count: int) -> NDArray[np.uint8]:
        return generated_target(count, size, seed_of(seed, split))

    return _without_labels("target", data, size, split, False, drawn, world)


def _without_labels(
    domain: Domain,
    data: Data,
    size: int,
    split: str,
    align: bool,
    drawn: Callable[[int], NDArray[np.uint8]],
    world: World,
) -> Pictures:
    """Loads sources of one domain; `drawn` makes so many pictures of the generated one."""
    paths = data.secret if domain == "secret" else data.target
    parts = []
    for _, source in world.together(lambda: _opened(paths, None, domain)):
        entries = entries_of(source.entries, data, split)
        if entries:
            parts.append(_decode(source, entries, size, align, None, world))
    if GENERATED in paths:
        count = generated_count(data, split)
        parts.append(_generated_part(drawn(count), ("",) * count))
    return _joined(parts, _Classes(), f"{', '.join(paths)}, split {split}")


def seed_of(seed: int, split: str) -> int:
    """Returns what a split of the generated pair is drawn with: no two splits share a picture.

    Args:
        seed: of the run.
        split: "train", "validation" or "test".
    """
    return seed * 3 + ("train", "validation", "test").index(split)


def _check_named_once(paths: tuple[str, ...], domain: Domain) -> None:
    named: dict[str, str] = {}
    for path in paths:
        place = path if path == GENERATED else os.path.realpath(path)
        if place in named:
            raise DataError(
                f"{named[place]} and {path} are the same {domain} pictures, which would count "
                "twice: name them once"
            )
        named[place] = path


def _check_apart(labelled: tuple[str, ...], unlabelled: tuple[str, ...]) -> None:
    """Held-out pictures would be trained on, and others count twice."""
    _check_named_once((*labelled, *unlabelled), "secret")
    for one, other in product(labelled, unlabelled):
        if GENERATED in (one, other):
            continue
        places = [Path(path).resolve() for path in (one, other)]
        if places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0]):
            raise DataError(
                f"{one}, which is labelled, and {other}, which is not, lie one in the other: name "
                "folders that share no pictures"
            )


def _opened(
    paths: tuple[str, ...], attribute: str | None, domain: Domain
) -> list[tuple[str, Source]]:
    _check_named_once(paths, domain)
    return [
        (path, open_source(Path(path), attribute, domain)) for path in paths if path != GENERATED
    ]


@dataclass(frozen=True)
class _Part:
    """A source's pictures of a split: as `Pictures`, with labels as the source writes them."""

    pictures: tuple[NDArray[np.uint8], ...]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    remark: str = ""


def generated_count(data: Data, split: str) -> int:
    """Returns how many pictures of the generated pair a split has."""
    return min(_GENERATED_COUNTS[split], data.limit or _GENERATED_COUNTS[split])


def _generated_part(pictures: NDArray[np.uint8], labels: tuple[str, ...]) -> _Part:
    alpha = np.full((*pictures.shape[:3], 1), 255, np.uint8)
    drawn = np.concatenate([pictures, alpha], axis=3)
    return _Part((drawn,), labels, (GENERATED,) * len(pictures))


def _joined(parts: list[_Part], classes: _Classes, where: str) -> Pictures:
    if not parts:
        hint = _HINTS.get(where.rpartition(" ")[2], "")
        raise DataError(f"{where}: no pictures{hint}")
    pictures = Shards([pictures for part in parts for pictures in part.pictures])
    positions = {value: position for position, value in enumerate(classes.values)}
    texts = [text for part in parts for text in part.labels]
    labels = np.array([positions.get(text, 0) for text in texts], np.int64)
    kept = tuple(name for part in parts for name in part.names)
    left_out = tuple(name for part in parts for name in part.left_out)
    remarks = tuple(part.remark for part in parts if part.remark)
    return Pictures(pictures, labels, classes.names, kept, left_out, remarks)


def _label_names(data: Data, values: tuple[str, ...], in_words: bool) -> tuple[str, ...]:
    """Names the classes; of a column of 0 and 1, in words where that is asked for."""
    if data.labels is not None:
        if len(data.labels) != len(values):
            raise DataError(
                f"labels names {len(data.labels)} classes ({', '.join(data.labels)}), the data "
                f"has {len(values)} ({', '.join(values[:10])})"
            )
        return data.labels
    if not in_words or values != ("0", "1"):
        return values
    known = _KNOWN_LABELS.get(data.attribute.lower())
    if known is None:
        name = data.attribute.lower().replace("_", " ")
        return (f"not {name}", name)
    return known


def _natural(value: str) -> tuple[int, str]:
    return (int(value), value) if _NUMBER.fullmatch(value) else (1 << 62, value)


def entries_of(entries: tuple[Entry, ...], data: Data, split: str) -> list[Entry]:
    """Picks the pictures of a split.

    Args:
        entries: of one source.
        data: says how many are held out of the training split, and how many are used at most.
        split: "train", "validation" or "test".
    """
    wanted = "test" if split == "test" else "train"
    held_out = round(data.validation * 10_000)
    chosen = []
    for entry in entries:
        # A hash of the name: the same pictures are held out whatever else is in the source.
        validation = zlib.crc32(os.fsencode(entry.name)) % 10_000 < held_out
        if entry.split == wanted and (wanted == "test" or validation == (split == "validation")):
            chosen.append(entry)
    if data.limit is None or len(chosen) <= data.limit:
        return chosen
    # By the hash too: the first ones may all be of one class.
    drawn = sorted(chosen, key=lambda entry: zlib.crc32(os.fsencode(entry.name)))[: data.limit]
    kept = {entry.name for entry in drawn}
    return [entry for entry in chosen if entry.name in kept]


def _decode(
    source: Source,
    entries: list[Entry],
    size: int,
    align: bool,
    original_size: tuple[int, int] | None,
    world: World,
) -> _Part:
    pictures, kept = decode(source, entries, size, align, original_size, world)
    names = [f"{source.path}/{entry.name}" for entry in entries]
    labels = tuple(entries[position].label for position in kept)
    found = tuple(names[position] for position in kept)
    left_out = tuple(np.delete(names, kept).tolist())
    return _Part(pictures.parts, labels, found, left_out, source.remark)
