from __future__ import annotations

import errno
import os
import threading
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dtir_sdk.errors import ConfigurationError, DataError, OutputError
from dtir_sdk.faces import FaceFinder, alignment
from dtir_train.configuration import Data
from dtir_train.datasets import (
    UNLABELLED,
    decoded,
    load_secret,
    load_secret_by_source,
    load_target,
    load_unlabelled,
    shards,
    with_unlabelled,
)
from dtir_train.datasets.crops import square_crop
from dtir_train.datasets.sources import Source, open_source
from dtir_train.distributed import World

COLUMNS = ("file", "split", "male")
ROWS = tuple(
    (f"{number:02}.png", "test" if number % 4 == 3 else "train", str(number % 2))
    for number in range(12)
)
TRAIN = [number for number in range(12) if number % 4 != 3]


@pytest.fixture
def faces(tmp_path, labelled) -> Path:
    return labelled(tmp_path / "faces", COLUMNS, ROWS, None)


@pytest.fixture
def nothing_is_read(monkeypatch):
    """Makes every reading of a source's pictures fail."""

    def arm() -> None:
        def read(*_):
            raise AssertionError("a picture was read again")

        monkeypatch.setattr(Source, "read", read)

    return arm


def data_of(*paths: object, **changes) -> Data:
    names = tuple(map(str, paths))
    return replace(Data(names, names, align=False, validation=0.0), **changes)


def shades(read) -> list[int]:
    return [int(picture[..., :3].mean()) for picture in read.pictures]


def test_pictures_labels_and_names_belong_together(faces):
    read = load_secret(data_of(faces), 32, "train")
    assert read.pictures.shape == (9, 32, 32, 4)
    assert read.pictures[:].dtype == np.uint8
    assert shades(read) == TRAIN
    assert read.labels.tolist() == [number % 2 for number in TRAIN]
    assert read.names == tuple(f"{faces}/images/{number:02}.png" for number in TRAIN)
    assert (read.pictures[..., 3] == 255).all()
    assert read.left_out == ()
    assert shades(load_secret(data_of(faces), 32, "test")) == [3, 7, 11]


def test_colours_are_rgb(tmp_path, labelled):
    red = cv2.imencode(".png", np.full((9, 9, 3), (0, 0, 255), np.uint8))[1].tobytes()
    rows = (("a.png", "train", "0"), ("b.png", "train", "1"))
    path = labelled(tmp_path / "red", COLUMNS, rows, dict.fromkeys(("a.png", "b.png"), red))
    read = load_secret(data_of(path), 32, "train")
    assert (read.pictures[:] == (255, 0, 0, 255)).all()


def test_gender_gets_its_names(faces):
    assert load_secret(data_of(faces), 32, "train").label_names == ("female", "male")


@pytest.mark.parametrize(
    ("attribute", "values", "expected"),
    [
        ("Wavy_Hair", ("1", "0"), ("not wavy hair", "wavy hair")),
        ("identity", ("10", "9"), ("9", "10")),
        ("identity", ("Bob", "Ann"), ("Ann", "Bob")),
        ("identity", ("²", "7"), ("7", "²")),
        ("identity", ("Bob", "7"), ("7", "Bob")),
    ],
)
def test_label_names_and_their_order(tmp_path, labelled, attribute, values, expected):
    rows = tuple((f"{n}.png", "train", values[n % 2]) for n in range(4))
    path = labelled(tmp_path / "faces", ("file", "split", attribute), rows, None)
    read = load_secret(data_of(path, attribute=attribute.lower()), 32, "train")
    assert read.label_names == expected
    assert read.labels.tolist() == [1, 0, 1, 0]


def test_labels_can_be_named(faces):
    data = data_of(faces, labels=("her", "him"))
    assert load_secret(data, 32, "train").label_names == ("her", "him")
    with pytest.raises(DataError, match=r"names 3 classes .*the data has 2 \(0, 1\)"):
        load_secret(data_of(faces, labels=("a", "b", "c")), 32, "train")


def test_one_class_only_is_refused(tmp_path, labelled):
    rows = (("a.png", "train", "1"), ("b.png", "test", "1"))
    path = labelled(tmp_path / "faces", COLUMNS, rows, None)
    with pytest.raises(DataError, match=r"`male` has one class only \(1\)"):
        load_secret(data_of(path), 32, "train")


def test_what_is_to_be_told_of_a_source_comes_with_its_pictures(faces, monkeypatch):
    opened = open_source(faces, "male")
    assert load_secret(data_of(faces), 32, "train").remarks == ()
    told = replace(opened, remark="half of it is not used")
    monkeypatch.setattr(decoded, "open_source", lambda *_: told)
    for read in (load_secret, load_target):
        assert read(data_of(faces), 32, "train").remarks == ("half of it is not used",)


def test_sources_are_joined(faces, tmp_path, labelled):
    rows = (("x.png", "train", "2"), ("y.png", "train", "0"))
    more = labelled(tmp_path / "more.zip", COLUMNS, rows, None)
    read = load_secret(data_of(faces, more), 32, "train")
    assert read.label_names == ("0", "1", "2")
    assert shades(read) == [*TRAIN, 0, 1]
    assert read.labels.tolist() == [*(number % 2 for number in TRAIN), 2, 0]


@pytest.mark.parametrize("other", [("0", "1"), ("-1", "1"), ("-1",)])
def test_what_some_write_as_minus_one_is_no_class_of_its_own(tmp_path, labelled, other):
    for name, values in (("one", ("-1", "1")), ("other", other)):
        rows = tuple((f"{n}.png", "train", values[n % len(values)]) for n in range(4))
        labelled(tmp_path / name, COLUMNS, rows, None)
    read = load_secret(data_of(tmp_path / "one", tmp_path / "other"), 32, "train")
    assert read.label_names == ("female", "male")
    assert read.labels.tolist() == [0, 1, 0, 1, *[int(value) > 0 for value in other * 4][:4]]


def test_minus_one_beside_nought_is_a_class(tmp_path, labelled):
    for name, values in (("one", ("-1", "0", "1")), ("other", ("-1", "1"))):
        rows = tuple((f"{n}.png", "train", values[n % len(values)]) for n in range(6))
        labelled(tmp_path / name, COLUMNS, rows, None)
    read = load_secret(data_of(tmp_path / "one", tmp_path / "other"), 32, "train")
    assert read.label_names == ("-1", "0", "1")
    assert read.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 2, 0, 2, 0, 2]


def words(folder: Path, labelled, *values: str, column: str = "male") -> Path:
    rows = tuple((f"{value}.png", "train", value) for value in values)
    return labelled(folder, ("file", "split", column), rows, None)


def test_sources_that_write_labels_otherwise_are_refused(faces, tmp_path, labelled):
    spelt = words(tmp_path / "spelt", labelled, "female", "male")
    with pytest.raises(DataError, match=r"disagree on `male`: 0, 1 here, female, male there"):
        load_secret(data_of(faces, spelt), 32, "train")
    named = data_of(faces, spelt, labels=("no", "yes", "she", "he"))
    assert load_secret(named, 32, "train").label_names == ("no", "yes", "she", "he")


@pytest.mark.parametrize("load", [load_secret, load_secret_by_source, load_target])
def test_a_source_that_is_named_twice_is_refused(faces, tmp_path, load):
    (tmp_path / "link").symlink_to(faces)
    twice = [(faces, faces), (faces, f"{faces}/"), (tmp_path / "link", faces)]
    for paths in (*twice, ("generated", faces, "generated")):
        with pytest.raises(DataError, match=r"are the same \w+ pictures.*: name them once"):
            load(data_of(*paths, attribute="shape"), 32, "train")


@pytest.mark.parametrize(
    ("column", "ones", "others"), [("male", "0", "1"), ("identity", "ab", "cd")]
)
def test_sources_may_hold_other_classes(tmp_path, labelled, column, ones, others):
    one = words(tmp_path / "one", labelled, *ones, column=column)
    other = words(tmp_path / "other", labelled, *others, column=column)
    data = data_of(one, other, attribute=column)
    read = load_secret(data, 32, "train")
    assert sorted(read.labels.tolist()) == [*range(len(ones + others))]
    alone = load_secret_by_source(data, 32, "train")
    assert list(alone) == [str(one), str(other)]
    assert [each.label_names for each in alone.values()] == [read.label_names] * 2
    assert np.concatenate([each.labels for each in alone.values()]).tolist() == read.labels.tolist()
    with pytest.raises(DataError, match=r"one, split test: no pictures"):
        load_secret_by_source(data, 32, "test")


@pytest.fixture
def squeezed(tmp_path, labelled, portrait) -> Path:
    """The portrait, 512x600, squeezed to 512x400, as both classes."""
    flat = cv2.resize(portrait, (512, 400), interpolation=cv2.INTER_AREA)
    stream = cv2.imencode(".png", flat)[1].tobytes()
    rows = (("a.png", "train", "0"), ("b.png", "train", "1"))
    return labelled(tmp_path / "squeezed", COLUMNS, rows, dict.fromkeys(("a.png", "b.png"), stream))


def test_squeezed_pictures_are_stretched_back_before_the_face_is_found(squeezed, portrait):
    height, width = portrait.shape[:2]
    data = data_of(squeezed, align=True)
    expected = square_crop(portrait, 64, FaceFinder())[..., ::-1].astype(int)
    as_it_was = load_secret(data, 64, "train", original_size=(width, height))
    as_it_is = load_secret(data, 64, "train")
    near, far = (
        abs(read.pictures[0, ..., :3].astype(int) - expected).mean()
        for read in (as_it_was, as_it_is)
    )
    assert near < 10
    assert far > 4 * near


@pytest.mark.parametrize("size", [(0, 10), (10, -1), (10, 10_001)])
def test_an_original_size_that_no_picture_has_is_refused(squeezed, size):
    with pytest.raises(ConfigurationError, match=rf"original_size is {size[0]} x {size[1]}: each"):
        load_secret(data_of(squeezed), 32, "train", original_size=size)


@pytest.mark.parametrize("name", ["faces", "faces.zip"])
def test_decoding_happens_once(tmp_path, labelled, nothing_is_read, name):
    path = labelled(tmp_path / name, COLUMNS, ROWS, None)
    first = load_secret(data_of(path), 32, "train")
    nothing_is_read()
    again = load_secret(data_of(path), 32, "train")
    assert np.array_equal(first.pictures, again.pictures)
    assert (first.names, first.label_names) == (again.names, again.label_names)
    with pytest.raises(AssertionError, match="read again"):
        load_secret(data_of(path), 36, "train")


def test_decoded_pictures_are_not_kept_in_memory_and_not_writable(faces):
    (part,) = load_secret(data_of(faces), 32, "train").pictures.parts
    assert isinstance(part, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        part[0] = 0


def test_another_label_of_the_same_pictures_needs_no_decoding(faces, labelled, nothing_is_read):
    load_secret(data_of(faces), 32, "train")
    columns, rows = (*COLUMNS, "bald"), [(*row, str(index // 6)) for index, row in enumerate(ROWS)]
    written = {row[0]: (faces / "images" / row[0]).stat() for row in ROWS}
    labelled(faces, columns, rows, {})
    assert {name: (faces / "images" / name).stat() for name in written} == written
    nothing_is_read()
    assert load_secret(data_of(faces, attribute="bald"), 32, "train").labels.tolist() == [
        number // 6 for number in TRAIN
    ]


@pytest.fixture
def small_shards(monkeypatch):
    """A shard is of four pictures."""
    monkeypatch.setattr(shards, "SHARD", 4)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("name", ["faces", "faces.zip"])
def test_an_interrupted_decoding_goes_on_where_it_was(tmp_path, labelled, cache, monkeypatch, name):
    path = labelled(tmp_path / name, COLUMNS, ROWS, None)
    read, asked = Source.read, []

    def reading(self, entries):
        for entry, stream in zip(entries, read(self, entries), strict=True):
            asked.append(entry.name)
            if stop and entry.name == "images/08.png":
                raise KeyboardInterrupt
            yield stream

    monkeypatch.setattr(Source, "read", reading)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        load_secret(data_of(path), 32, "train")
    # Of nine pictures the first four were done.
    assert [file.name for file in cache.rglob("*.npy")] == ["00000.npy"]
    stop, asked[:] = False, []
    assert shades(load_secret(data_of(path), 32, "train")) == TRAIN
    assert asked == [f"images/{number:02}.png" for number in TRAIN[4:]]
    assert len(list(cache.rglob("*.npy"))) == 3


@pytest.mark.usefixtures("small_shards")
def test_processes_each_decode_a_share(faces, monkeypatch):
    """Three ranks that share a cache, one after the other; none reads what another decodes."""
    read, asked = Source.read, []

    def reading(self, entries):
        asked.append([Path(entry.name).stem for entry in entries])
        return read(self, entries)

    monkeypatch.setattr(Source, "read", reading)
    monkeypatch.setattr(World, "gather", lambda _, value: [value])
    for rank in range(3):
        if rank < 2:
            with pytest.raises(DataError, match="damaged"):  # The others' shards are not there.
                load_secret(data_of(faces), 32, "train", world=World(rank, 3, rank, 3))
        else:
            last = load_secret(data_of(faces), 32, "train", world=World(rank, 3, rank, 3))
    names = [f"{number:02}" for number in TRAIN]
    assert asked == [names[:4], names[4:8], names[8:]]
    assert shades(last) == TRAIN


@pytest.mark.usefixtures("small_shards")
def test_a_machine_with_a_cache_of_its_own_decodes_all(faces, monkeypatch):
    """Rank 1 of two, alone on its machine: what rank 0 decoded lies elsewhere."""
    monkeypatch.setattr(World, "gather", lambda _, value: [value])
    assert shades(load_secret(data_of(faces), 32, "train", world=World(1, 2, 0, 1))) == TRAIN


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("file", ["00001.npy", "00001.json"])
def test_a_damaged_cache_is_refused(faces, cache, content, file):
    load_secret(data_of(faces), 32, "train")
    (damaged,) = cache.rglob(file)
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged .*delete this folder") as caught:
        load_secret(data_of(faces), 32, "train")
    assert str(damaged.parent) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_decoding_takes_no_more_memory_than_a_shard(tmp_path, labelled, monkeypatch):
    """Sixty-four pictures of 64 KiB in shards of four; a shard is a quarter of a MiB."""
    monkeypatch.setattr(shards, "SHARD", 4)
    rows = [(f"{number}.png", "train", str(number % 2)) for number in range(64)]
    peaks = []
    # What else the process does counts too: the least of three is the decoding's own.
    for number in range(3):
        path = labelled(tmp_path / f"faces-{number}.zip", COLUMNS, rows, None)
        load_secret(data_of(path, limit=4), 128, "train")
        tracemalloc.start()
        try:
            read = load_secret(data_of(path), 128, "train")
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert len(read) == 64
    peak = min(peaks)
    # The pictures, their stack and what is under way in the threads: no more than four shards.
    assert peak < 4 * 4 * 128 * 128 * 4
    assert peak < 64 * 128 * 128 * 4 / 3


@pytest.mark.parametrize("name", ["faces", "faces.zip"])
def test_a_changed_source_is_decoded_anew(tmp_path, labelled, png, name):
    path = labelled(tmp_path / name, COLUMNS, ROWS, None)
    load_secret(data_of(path), 32, "train")
    pictures = {row[0]: png(100 + number) for number, row in enumerate(ROWS)}
    labelled(path, COLUMNS, ROWS, pictures)
    assert shades(load_secret(data_of(path), 32, "train")) == [100 + n for n in TRAIN]


def test_a_changed_list_is_read_anew(faces, labelled):
    load_secret(data_of(faces), 32, "train")
    labelled(faces, COLUMNS, [(name, split, str(1 - int(c))) for name, split, c in ROWS], None)
    read = load_secret(data_of(faces), 32, "train")
    assert read.labels.tolist() == [1 - number % 2 for number in TRAIN]


@pytest.mark.parametrize("name", ["faces", "faces.zip"])
def test_a_picture_that_is_not_a_picture_is_named(tmp_path, labelled, png, name):
    pictures = {row[0]: png(1) for row in ROWS} | {"05.png": b"not a picture"}
    path = labelled(tmp_path / name, COLUMNS, ROWS, pictures)
    with pytest.raises(DataError, match=r"images/05\.png"):
        load_secret(data_of(path), 32, "train")


@pytest.mark.usefixtures("small_shards")
def test_all_pictures_of_a_shard_that_are_none_are_named(tmp_path, labelled, png):
    broken = dict.fromkeys(("00.png", "02.png", "09.png"), b"not a picture")
    pictures = {row[0]: png(1) for row in ROWS} | broken
    path = labelled(tmp_path / "faces", COLUMNS, ROWS, pictures)
    with pytest.raises(DataError) as refused:
        load_secret(data_of(path), 32, "train")
    names = [f"{path}/images/{name} is no picture that can be read" for name in broken]
    message = f"{names[0]}; {names[1]}: restore them, or take them out of the source"
    assert str(refused.value) == message


def test_no_more_than_ten_pictures_that_are_none_are_named(tmp_path, labelled, cache):
    rows = [(f"{number:02}.png", "train", str(number % 2)) for number in range(13)]
    pictures = {row[0]: b"not a picture" for row in rows}
    path = labelled(tmp_path / "faces", COLUMNS, rows, pictures)
    with pytest.raises(
        DataError, match=r"09\.png is no picture .*; and 3 more: restore"
    ) as refused:
        load_secret(data_of(path), 32, "train")
    assert str(refused.value).count(" is no picture") == 10
    assert "\n" not in str(refused.value)
    assert not list(cache.rglob("*.npy"))


@pytest.mark.parametrize("name", ["faces", "faces.zip"])
def test_a_missing_picture_is_named_and_nothing_is_kept(tmp_path, labelled, png, name, cache):
    pictures = {row[0]: png(1) for row in ROWS if row[0] != "05.png"}
    path = labelled(tmp_path / name, COLUMNS, ROWS, pictures)
    with pytest.raises(DataError, match=r"images/05\.png is listed but cannot be read"):
        load_secret(data_of(path), 32, "train")
    assert not list(cache.rglob("*.npy"))


def test_a_full_disk_is_an_error_and_leaves_nothing(faces, cache, monkeypatch):
    def save(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save)
        # The error is held on to: it keeps alive what was not ended.
        with pytest.raises(OutputError, match=r"no space left .*DTIR_CACHE") as _caught:
            load_secret(data_of(faces), 32, "train")
    # The garbage collector may end none of them: it waits for ever where it runs while a thread
    # starts. (The bar's own thread ends a moment after it, and is no matter.)
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if not thread.daemon]
    assert not [file for file in cache.rglob("*") if file.is_file()]
    assert len(load_secret(data_of(faces), 32, "train")) == 9


def test_validation_pictures_are_held_out_by_name(tmp_path, labelled):
    rows = [(f"{number}.png", "train", str(number % 2)) for number in range(200)]
    path = labelled(tmp_path / "faces", COLUMNS, rows, None)
    data = data_of(path, validation=0.25)
    train, held_out = (load_secret(data, 32, split) for split in ("train", "validation"))
    assert not set(train.names) & set(held_out.names)
    assert len(train) + len(held_out) == 200
    assert 25 <= len(held_out) <= 75
    # The same pictures, whatever else is in the source.
    fewer = labelled(tmp_path / "fewer" / "faces", COLUMNS, rows[:100], None)
    names = [
        Path(name).name for name in load_secret(data_of(fewer, validation=0.25), 32, "train").names
    ]
    assert names == [Path(name).name for name in train.names if int(Path(name).stem) < 100]


def test_a_split_without_pictures_is_refused(tmp_path, labelled):
    rows = [row for row in ROWS if row[1] == "train"]
    path = labelled(tmp_path / "faces", COLUMNS, rows, None)
    with pytest.raises(DataError, match="split test: no pictures"):
        load_secret(data_of(path), 32, "test")


def test_too_few_pictures_to_hold_any_out_is_an_error_that_says_how(faces):
    with pytest.raises(DataError, match=r"hold out more with --data\.validation"):
        load_secret(data_of(faces, validation=0.0001), 32, "validation")


def test_a_limit_is_of_each_source(faces, tmp_path, labelled):
    other = labelled(tmp_path / "other", COLUMNS, ROWS, None)
    read = load_secret(data_of(faces, other, limit=2), 32, "train")
    assert [Path(name).parts[-3] for name in read.names] == ["faces"] * 2 + ["other"] * 2


def test_the_target_domain_has_no_labels(faces, tmp_path, png):
    folder, archive = tmp_path / "cartoons", tmp_path / "cartoons.zip"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(77))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("b.png", png(88))
    read = load_target(data_of(faces, folder, archive, align=True), 32, "train")
    assert shades(read) == [*TRAIN, 77, 88]
    assert read.label_names == ()
    assert not read.labels.any()


def test_a_limit_takes_pictures_of_every_class(tmp_path, png):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(60):
            (tmp_path / name / f"{number}.png").write_bytes(png(number))
    data = replace(data_of(tmp_path, attribute="animal"), limit=20)
    limited = load_secret(data, 32, "train")
    assert len(limited) == 20
    assert min(np.bincount(limited.labels)) >= 4
    everything = load_secret(replace(data, limit=None), 32, "train")
    assert [name for name in everything.names if name in limited.names] == list(limited.names)


def test_without_test_pictures_the_error_says_how_to_name_them(faces):
    lines = (faces / "labels.csv").read_text().replace("test", "train")
    (faces / "labels.csv").write_text(lines)
    with pytest.raises(DataError, match="no pictures: name them in a column `split`"):
        load_secret(data_of(faces), 32, "test")


def test_photos_can_be_read_without_labels(faces, tmp_path, png):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(77))
    read = load_unlabelled(data_of(faces, folder, attribute="age"), 32, "train")
    assert shades(read) == [*TRAIN, 77]
    assert read.label_names == ()
    assert not read.labels.any()
    generated = data_of("generated")
    same = load_secret(generated, 32, "train", seed=2).pictures
    assert np.array_equal(load_unlabelled(generated, 32, "train", seed=2).pictures, same)


def test_photos_without_a_label_join_those_with_one(faces, tmp_path, png):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(77))
    data = data_of(faces, unlabelled=(str(folder),))
    labelled = load_secret(data, 32, "train")
    read = with_unlabelled(labelled, data, 32)
    assert shades(read) == [*TRAIN, 77]
    assert read.labels.tolist() == [*labelled.labels, UNLABELLED]
    assert read.label_names == labelled.label_names
    assert read.names == (*labelled.names, f"{folder}/a.png")
    assert with_unlabelled(labelled, data_of(faces), 32) is labelled
    with pytest.raises(DataError, match=r"are the same secret pictures.*: name them once"):
        with_unlabelled(labelled, data_of(faces, unlabelled=(f"{faces}/",)), 32)
    for inner in (faces / "images", faces.parent):
        with pytest.raises(DataError, match="lie one in the other: name folders that share no"):
            with_unlabelled(labelled, data_of(faces, unlabelled=(str(inner),)), 32)


def test_the_generated_pair():
    data = data_of("generated")
    for split, count in (("train", 512), ("validation", 64), ("test", 128)):
        read, target = load_secret(data, 32, split), load_target(data, 32, split)
        assert len(read) == len(target) == count
        assert read.pictures.shape == target.pictures.shape == (count, 32, 32, 4)
        assert read.label_names == ("disc", "square")
    train, validation = (load_secret(data, 32, split) for split in ("train", "validation"))
    assert not np.array_equal(train.pictures[:64], validation.pictures)
    other = load_secret(data, 32, "train", seed=1)
    assert not np.array_equal(train.pictures, other.pictures)


def whitened(portrait: np.ndarray) -> bytes:
    """The portrait's face, cut out on white."""
    (x, y, width, height) = (int(value) for value in FaceFinder().find(portrait)[0].box)
    mask = np.zeros(portrait.shape[:2], np.uint8)
    centre = (x + width // 2, y + height // 2)
    cv2.ellipse(mask, centre, (width // 2, round(height * 0.55)), 0, 0, 360, 1, -1)
    picture = np.where(mask[..., None] == 1, portrait, 255).astype(np.uint8)
    return cv2.imencode(".png", picture)[1].tobytes()


def test_faces_are_found_and_those_cut_out_on_white_get_an_alpha(
    tmp_path, labelled, portrait, portrait_bytes, png
):
    rows = (
        ("whole.jpg", "train", "0"),
        ("wall.png", "train", "1"),
        ("cut.png", "train", "1"),
    )
    pictures = {
        "whole.jpg": portrait_bytes,
        "wall.png": png(200, 120),
        "cut.png": whitened(portrait),
    }
    path = labelled(tmp_path / "faces", COLUMNS, rows, pictures)
    read = load_secret(data_of(path, align=True), 64, "train")
    assert [Path(name).name for name in read.names] == ["whole.jpg", "cut.png"]
    assert [Path(name).name for name in read.left_out] == ["wall.png"]
    assert read.labels.tolist() == [0, 1]
    whole, cut = read.pictures
    assert (whole[..., 3] == 255).all()
    # Her eyes and mouth are where they are in the other picture; around her is nothing.
    assert (cut[24:40, 24:40, 3] == 255).all()
    difference = np.abs(cut[24:40, 24:40, :3].astype(int) - whole[24:40, 24:40, :3])
    assert difference.mean() < 12
    corners = cut[[0, 0], [0, -1]]
    assert (corners[:, :3] >= 240).all()
    assert not corners[:, 3].any()


def test_white_inside_of_a_face_is_no_background(tmp_path, labelled, portrait):
    (x, y, width, height) = (int(value) for value in FaceFinder().find(portrait)[0].box)
    painted = cv2.imdecode(np.frombuffer(whitened(portrait), np.uint8), cv2.IMREAD_COLOR)
    cv2.circle(painted, (x + width // 2, y + height // 6), width // 12, (255, 255, 255), -1)
    stream = cv2.imencode(".png", painted)[1].tobytes()
    rows = (("a.png", "train", "0"), ("b.png", "train", "1"))
    path = labelled(tmp_path / "faces", COLUMNS, rows, dict.fromkeys(("a.png", "b.png"), stream))
    (cut, _) = load_secret(data_of(path, align=True), 64, "train").pictures
    (face,) = FaceFinder().find(painted)
    spot = alignment(face.landmarks, 64) @ (x + width // 2, y + height // 6, 1)
    column, row = spot.round().astype(int)
    assert cut[row, column].tolist() == [255, 255, 255, 255]
    assert cut[0, 0, 3] == 0


def test_no_face_anywhere_is_refused(tmp_path, labelled):
    path = labelled(tmp_path / "walls", COLUMNS, ROWS, None)
    with pytest.raises(DataError, match=r"no face found in any picture: .* there is --no-align"):
        load_secret(data_of(path, align=True), 32, "train")


def test_the_training_pictures_must_be_of_two_classes(tmp_path, labelled):
    rows = (("a.png", "train", "0"), ("b.png", "train", "0"), ("c.png", "test", "1"))
    path = labelled(tmp_path / "faces", ("file", "split", "male"), rows, None)
    data = Data((str(path),), align=False, validation=0)
    with pytest.raises(DataError, match="all pictures are of one class: there is nothing to learn"):
        load_secret(data, 32, "train")
    assert len(load_secret(data, 32, "test")) == 1


def test_numbers_that_are_written_in_two_ways_have_one_order(tmp_path, labelled):
    rows = (("a.png", "train", "1"), ("b.png", "train", "01"), ("c.png", "train", "2"))
    path = labelled(tmp_path / "faces", ("file", "split", "identity"), rows, None)
    data = Data((str(path),), attribute="identity", align=False, validation=0)
    assert load_secret(data, 32, "train").label_names == ("01", "1", "2")


def test_a_limit_holds_for_the_generated_pair_too():
    data = Data(attribute="shape", align=False, limit=20)
    assert len(load_secret(data, 32, "train")) == len(load_target(data, 32, "train")) == 20


def test_without_a_home_it_says_what_to_set(monkeypatch, people):
    """As for a user of a container that the system does not know."""

    def homeless(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.setenv("DTIR_CACHE", "~/cache")
    with pytest.raises(OutputError, match=r"no place for decoded pictures .*: set DTIR_C"):
        load_secret(Data((str(people),), attribute="identity", align=False), 32, "train")


def test_folders_keep_their_names(tmp_path, png):
    """0 and 1 are what their owner calls them, and not what a column of them would mean."""
    for folder in ("0", "1"):
        (tmp_path / folder).mkdir()
        for number in range(8):
            (tmp_path / folder / f"{number}.png").write_bytes(png(number))
    data = Data((str(tmp_path),), attribute="male", align=False, validation=0)
    assert load_secret(data, 32, "train").label_names == ("0", "1")
