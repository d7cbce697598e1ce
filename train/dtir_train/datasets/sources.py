"""The layouts in which people keep pictures, each read into a list of labelled entries.

A source is a path, and its layout is told from what lies there:

- `labels.csv` with `images/`, as a folder or a zip: columns `file`, optionally `split` (train or
  test), and one column a label;
- CelebA as published: `img_align_celeba/` with `list_attr_celeba.txt` and `identity_CelebA.txt`,
  of which the paper's 12,000 pictures are used, the first 10,000 to train and the next 2,000 to
  test, whatever `list_eval_partition.txt` says;
- a folder a class (PubFig as published on Kaggle: a folder a person), 80% to train, 20% to test,
  whether the labels are read or not;
- a folder or zip of pictures without labels (target pictures: Bitmoji, CartoonSet), 95% to train,
  5% to test.

Where a layout has no splits, a hash of a picture's name decides: whatever is added later, no
picture that was trained on becomes a test picture. A `labels.csv` has its own: what it does not
call test is to train.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dtir_sdk.errors import DataError
from dtir_sdk.files import reason
from dtir_sdk.pictures import SUFFIXES
from dtir_train.checkpoint import CHECKPOINT_NAME

Domain = Literal["secret", "target"]

# What zipfile raises for a member that is missing, damaged, or encrypted.
_NOT_IN_ZIP = (KeyError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)

# Shares of pictures that are kept for testing. Of unlabelled ones, to judge by how well cartoons
# are told from them.
_TEST_SHARE_LABELLED, _TEST_SHARE_UNLABELLED = 0.20, 0.05

# The paper's Section 4.1: the first 10,000 pictures to train, the next 2,000 to test.
_CELEBA_TRAIN, _CELEBA_TEST = 10_000, 2_000


@dataclass(frozen=True)
class Entry:
    """A picture of a source, not read yet.

    Attributes:
        name: path below the source's root.
        split: "train" or "test".
        label: the attribute's value as the source writes it, "" where it has no labels.
    """

    name: str
    split: str
    label: str


@dataclass(frozen=True)
class Source:
    """A set of pictures on disk.

    Attributes:
        path: the folder or zip.
        entries: its pictures, in a fixed order.
        labelled_by_folder: labels are names of folders, whatever attribute was asked for.
        remark: what its user should be told, in one line; empty where there is nothing.
    """

    path: Path
    entries: tuple[Entry, ...]
    labelled_by_folder: bool = False
    remark: str = ""

    def changed(self, entries: Sequence[Entry]) -> int | list[tuple[int, int]]:
        """Returns when the zip was last changed, or each picture's time and size in a folder.

        Raises:
            DataError: where a file is missing.
        """
        if self.path.is_file():
            return self.path.stat().st_mtime_ns
        times = []
        for entry in entries:
            try:
                stat = (self.path / entry.name).stat()
            except (OSError, ValueError) as error:
                raise self._unreadable(entry) from error
            times.append((stat.st_mtime_ns, stat.st_size))
        return times

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """Yields the files' bytes in the order of `entries`.

        Raises:
            DataError: where a file is missing.
        """
        archive = zipfile.ZipFile(self.path) if self.path.is_file() else None
        try:
            for entry in entries:
                try:
                    if archive is None:
                        yield (self.path / entry.name).read_bytes()
                    else:
                        yield archive.read(entry.name)
                except (OSError, *_NOT_IN_ZIP) as error:
                    raise self._unreadable(entry) from error
        finally:
            if archive is not None:
                archive.close()

    def _unreadable(self, entry: Entry) -> DataError:
        return DataError(
            f"{self.path}: the picture {entry.name} is listed but cannot be read: "
            "restore it, or take its line out of the list"
        )


def open_source(path: Path, attribute: str | None, domain: Domain = "secret") -> Source:
    """Finds out a source's layout and lists its pictures.

    Args:
        path: a folder or a zip.
        attribute: the label's column in any case, `identity`, or None where labels do not matter.
        domain: whose pictures they are. Folders in a folder of target pictures are no classes.

    Raises:
        DataError: where the path is missing, cannot be read, holds no pictures, or has no such
            label.
    """
    try:
        return _open(path, attribute, domain)
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: could not be read: {reason(error)}: let it be read, or "
            "name other pictures"
        ) from error


def _open(path: Path, attribute: str | None, domain: Domain) -> Source:
    if not path.exists():
        raise DataError(f"{path}: no such folder or file: give the path of the pictures")
    if (path / CHECKPOINT_NAME).is_file():
        raise DataError(f"{path}: a run of dtir-train, and no pictures: name it as the system")
    by_folder, remark = False, ""
    if path.is_file() or (path / "labels.csv").is_file():
        entries = _labelled(path, attribute, domain)
    elif (path / "img_align_celeba").is_dir():
        entries, remark = _celeba(path, attribute)
    elif attribute is None:
        entries = _pictures(path, domain)
    else:
        (entries, remark), by_folder = _folder_a_class(path, attribute), True
    if not entries:
        raise DataError(f"{path}: no pictures there ({', '.join(sorted(SUFFIXES))})")
    return Source(path, tuple(entries), by_folder, remark)


def _labelled(path: Path, attribute: str | None, domain: Domain) -> list[Entry]:
    if path.is_file():
        members, table = _zipped(path)
        if table is None:
            if attribute is not None:
                raise DataError(f"{path}: the zip holds no labels.csv")
            return _unlabelled(sorted(members), domain)
    else:
        table = (path / "labels.csv").read_bytes()
    try:
        # Spreadsheets begin a file with a byte order mark.
        rows = list(csv.reader(io.StringIO(table.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: labels.csv is no CSV in UTF-8 ({error})") from error
    columns = [_plain(column) for column in rows[0]] if rows else []
    if "file" not in columns:
        raise DataError(f"{path}: labels.csv has no column `file` (it has: {', '.join(columns)})")
    column = None if attribute is None else _column(attribute, columns, f"{path}: labels.csv")
    entries, names = [], set()
    for line, fields in enumerate(rows[1:], start=2):
        if not fields:
            continue
        if len(fields) != len(columns):
            raise DataError(
                f"{path}: labels.csv, line {line}: expected {len(columns)} fields, one a column, "
                f"not {len(fields)}: put a field that holds a comma in quotes"
            )
        row = dict(zip(columns, map(str.strip, fields), strict=True))
        name, split = row.get("file"), row.get("split") or "train"
        label = "" if column is None else row.get(column)
        if not name or (column and not label) or split not in ("train", "test"):
            raise DataError(
                f"{path}: labels.csv, line {line}: expected a file, a split that is train or "
                f"test, and a label"
            )
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise DataError(f"{path}: labels.csv, line {line}: {name} lies outside of images/")
        if name in names:
            raise DataError(
                f"{path}: labels.csv, line {line}: {name} is listed twice: a picture has one split "
                "and one label"
            )
        names.add(name)
        entries.append(Entry(f"images/{name}", split, label or ""))
    return entries


def _zipped(path: Path) -> tuple[set[str], bytes | None]:
    """Returns the names in a zip, and its labels.csv if it has one."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            return members, archive.read("labels.csv") if "labels.csv" in members else None
    except PermissionError:
        raise
    except (OSError, *_NOT_IN_ZIP) as error:
        raise DataError(f"{path}: neither a folder nor a whole zip archive") from error


def _plain(column: str) -> str:
    """A column's name without spaces around it; `file` and `split` may be written in any case."""
    name = column.strip()
    return name.lower() if name.lower() in ("file", "split") else name


def _celeba(path: Path, attribute: str | None) -> tuple[list[Entry], str]:
    """Returns the paper's pictures, and a remark on those that are there beside them."""
    pictures = (path / "img_align_celeba").iterdir()
    found = sorted(file.name for file in pictures if _is_picture(file.name))
    names = found[: _CELEBA_TRAIN + _CELEBA_TEST]
    labels = {} if attribute is None else _celeba_labels(path, attribute)
    entries = []
    for index, name in enumerate(names):
        if attribute is not None and name not in labels:
            raise DataError(f"{path}: {name} has no line in CelebA's list")
        split = "train" if index < _CELEBA_TRAIN else "test"
        entries.append(Entry(f"img_align_celeba/{name}", split, labels.get(name, "")))
    unused = len(found) - len(names)
    remark = (
        f"{path}: of CelebA the first {_CELEBA_TRAIN:,} pictures are to train and the next "
        f"{_CELEBA_TEST:,} to test, as in the paper; not used: {unused:,}"
    )
    return entries, remark if unused else ""


def _celeba_labels(path: Path, attribute: str) -> dict[str, str]:
    identity = attribute.lower() == "identity"
    file = path / ("identity_CelebA.txt" if identity else "list_attr_celeba.txt")
    if not file.is_file():
        raise DataError(f"{file}: missing: download it with CelebA's pictures")
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: no text in UTF-8 ({error}): download it again") from error
    if identity:
        return dict(line.split()[:2] for line in lines if len(line.split()) == 2)
    if len(lines) < 2:
        raise DataError(f"{file}: truncated: download it again")
    columns = lines[1].split()
    position = columns.index(_column(attribute, columns, str(file)))
    labels = {}
    for number, line in enumerate(lines[2:], start=3):
        fields = line.split()
        if len(fields) != len(columns) + 1:
            raise DataError(f"{file}, line {number}: {len(fields)} fields, not {len(columns) + 1}")
        # CelebA writes -1 for "has it not".
        labels[fields[0]] = "1" if fields[position + 1] == "1" else "0"
    return labels


def _folder_a_class(path: Path, attribute: str) -> tuple[list[Entry], str]:
    """Returns the pictures of class folders, and a remark on what the labels are."""
    folders = (each for each in path.iterdir() if each.is_dir())
    # Notebooks and file managers keep copies of pictures in hidden ones.
    classes = sorted(folder for folder in folders if not folder.name.startswith("."))
    if not classes:
        raise DataError(
            f"{path}: no labels.csv, no img_align_celeba/ and no folder a class: "
            "labels are needed here"
        )
    entries, unused = [], 0
    for folder in classes:
        for file in sorted(folder.iterdir()):
            if _is_picture(file.name):
                name = f"{folder.name}/{file.name}"
                entries.append(Entry(name, _split(name, _TEST_SHARE_LABELLED), folder.name))
            else:
                unused += not file.name.startswith(".")
    remark = (
        f"{path}: its {len(classes)} folders are the labels ({_some(classes)}), which are called "
        f"`{attribute}`"
    )
    if unused:
        remark += f"; not used: {unused:,} files and folders in them that are no pictures"
    return entries, remark


def _some(folders: Sequence[Path]) -> str:
    names = [folder.name for folder in folders[:5]]
    return ", ".join([*names, "..."] if len(folders) > len(names) else names)


def _pictures(path: Path, domain: Domain) -> list[Entry]:
    return _unlabelled(sorted(_files_below(path)), domain)


def _files_below(path: Path) -> Iterator[str]:
    """Names of all files, with `/` on every system; a folder is read once, whatever links to it."""
    read: set[str] = set()

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(path, onerror=refuse, followlinks=True):
        read.add(os.path.realpath(folder))
        shown = (one for one in folders if not one.startswith("."))
        folders[:] = [one for one in shown if os.path.realpath(Path(folder) / one) not in read]
        for file in files:
            yield (Path(folder) / file).relative_to(path).as_posix()


def _unlabelled(names: Sequence[str], domain: Domain = "target") -> list[Entry]:
    entries = []
    for name in names:
        if _is_picture(name):
            # Read with labels, the same folder may be one a class: its test pictures are kept.
            classed = domain == "secret" and len(Path(name).parts) == 2
            share = _TEST_SHARE_LABELLED if classed else _TEST_SHARE_UNLABELLED
            entries.append(Entry(name, _split(name, share), ""))
    return entries


def _split(name: str, test_share: float) -> str:
    # Another hash than the one that holds validation pictures out.
    drawn = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) / 2**64
    return "test" if drawn < test_share else "train"


def _column(attribute: str, columns: Sequence[str], where: str) -> str:
    for column in columns:
        if column.lower() == attribute.lower():
            return column
    raise DataError(f"{where} has no column `{attribute}` (it has: {', '.join(columns)})")


def _is_picture(name: str) -> bool:
    # macOS puts a hidden companion beside each file of a zip.
    return Path(name).suffix.lower() in SUFFIXES and not Path(name).name.startswith(".")
