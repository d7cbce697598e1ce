from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtir_sdk.errors import DataError
from dtir_train.checkpoint import CHECKPOINT_NAME
from dtir_train.datasets import sources
from dtir_train.datasets.sources import Entry, open_source

COLUMNS = ("file", "split", "Male")
ROWS = (("a.png", "train", "0"), ("b.png", "test", "1"), ("deep/c.png", "", "1"))
ENTRIES = (
    Entry("images/a.png", "train", "0"),
    Entry("images/b.png", "test", "1"),
    Entry("images/deep/c.png", "train", "1"),
)


@pytest.mark.parametrize("name", ["faces", "faces.zip"])
def test_a_labelled_folder_and_its_zip_give_the_same(tmp_path, labelled, png, name):
    source = open_source(labelled(tmp_path / name, COLUMNS, ROWS, None), "male")
    assert source.entries == ENTRIES
    assert list(source.read(source.entries)) == [png(0), png(1), png(2)]
    assert list(source.read(source.entries[:0:-1])) == [png(2), png(1)]


@pytest.mark.parametrize("name", ["faces", "faces.zip"])
def test_labels_need_not_be_asked_for(tmp_path, labelled, name):
    source = open_source(labelled(tmp_path / name, COLUMNS, ROWS, None), None)
    assert [(entry.split, entry.label) for entry in source.entries] == [
        ("train", ""),
        ("test", ""),
        ("train", ""),
    ]


def test_without_a_split_everything_is_to_train(tmp_path, labelled):
    path = labelled(tmp_path / "faces", ("file", "male"), (("a.png", "0"), ("b.png", "1")), None)
    assert {entry.split for entry in open_source(path, "male").entries} == {"train"}


@pytest.mark.parametrize("name", ["faces", "faces.zip"])
def test_a_missing_picture_is_named(tmp_path, labelled, png, name):
    path = labelled(tmp_path / name, COLUMNS, ROWS, {"a.png": png(1)})
    source = open_source(path, "male")
    with pytest.raises(DataError, match=r"images/b\.png is listed but cannot be read"):
        list(source.read(source.entries))


def test_a_damaged_member_of_a_zip_is_named(tmp_path, labelled, png):
    path = labelled(tmp_path / "faces.zip", COLUMNS, ROWS, None)
    stream = path.read_bytes()
    place = stream.index(png(1)) + 20
    path.write_bytes(stream[:place] + bytes(8) + stream[place + 8 :])
    source = open_source(path, "male")
    with pytest.raises(DataError, match=r"images/b\.png .*cannot be read"):
        list(source.read(source.entries))


@pytest.mark.parametrize("name", ["faces", "faces.zip"])
def test_a_missing_column_names_those_that_are_there(tmp_path, labelled, name):
    path = labelled(tmp_path / name, COLUMNS, ROWS, None)
    with pytest.raises(DataError, match=r"no column `smiling` \(it has: file, split, Male\)"):
        open_source(path, "smiling")


def test_a_list_without_files_is_refused(tmp_path, labelled):
    path = labelled(tmp_path / "faces", ("picture", "male"), (("a.png", "0"),), {})
    with pytest.raises(DataError, match=r"no column `file` \(it has: picture, male\)"):
        open_source(path, "male")


@pytest.mark.parametrize("name", ["../secret.png", "a/../../b.png", "/etc/secret.png"])
def test_a_path_that_climbs_out_is_refused(tmp_path, labelled, name):
    path = labelled(tmp_path / "faces", COLUMNS, ((name, "train", "0"),), {})
    with pytest.raises(DataError, match=r"line 2: .* lies outside"):
        open_source(path, "male")


@pytest.mark.parametrize(
    "row", [("c.png", "validation", "1"), ("", "train", "1"), ("c.png", "train", ""), ("c.png",)]
)
def test_a_bad_line_is_named(tmp_path, labelled, row):
    path = labelled(tmp_path / "faces", COLUMNS, (*ROWS[:2], row), {})
    with pytest.raises(DataError, match=r"labels\.csv, line 4: expected"):
        open_source(path, "male")


def test_what_spreadsheets_write_is_read(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbffile,Male\r\na.png,0\r\n\r\nb.png,1\r\n")
    assert [entry.label for entry in open_source(tmp_path, "male").entries] == ["0", "1"]


@pytest.mark.parametrize(
    ("line", "count"), [("0.png,test,Smith, John", 4), ("0.png,test", 2), ("0.png,test,1,", 4)]
)
def test_a_line_has_a_field_a_column(tmp_path, line, count):
    """A comma that is not in quotes would make one person of all who are called Smith."""
    (tmp_path / "labels.csv").write_text(f"file,split,identity\n1.png,train,Ann\n{line}\n")
    message = rf"labels\.csv, line 3: expected 3 fields, one a column, not {count}: put a field"
    with pytest.raises(DataError, match=message):
        open_source(tmp_path, "identity")


def test_a_comma_in_quotes_is_a_labels_own(tmp_path):
    (tmp_path / "labels.csv").write_text('file,identity\n0.png,"Smith, John"\n')
    assert [entry.label for entry in open_source(tmp_path, "identity").entries] == ["Smith, John"]


def test_spaces_around_values_do_not_count(tmp_path):
    (tmp_path / "labels.csv").write_text("file, split, male\na.png, train, 0\n b.png , test, 1 \n")
    assert open_source(tmp_path, "male").entries == (
        Entry("images/a.png", "train", "0"),
        Entry("images/b.png", "test", "1"),
    )


@pytest.mark.parametrize(
    ("holder", "name", "source", "attribute"),
    [
        (Path, "read_bytes", "listed", "male"),
        (zipfile, "ZipFile", "listed.zip", "male"),
        (Path, "iterdir", "people", "identity"),
        (os, "scandir", "people", None),
    ],
    ids=["labels.csv", "zip", "folder a class", "folder"],
)
def test_what_may_not_be_read_is_told(
    tmp_path, labelled, monkeypatch, holder, name, source, attribute
):
    """Root may read everything, so a refusal stands for the mode of a file."""
    labelled(tmp_path / "listed", COLUMNS, ROWS, None)
    labelled(tmp_path / "listed.zip", COLUMNS, ROWS, None)
    folder_a_person(tmp_path / "people", {"Ann": 1, "Bob": 1})

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(holder, name, refuse)
    with pytest.raises(DataError, match=rf"{source}.*: could not be read: permission denied: let"):
        open_source(tmp_path / source, attribute)


def test_a_name_that_no_disk_takes_is_told(tmp_path):
    with pytest.raises(DataError, match="could not be read: file name too long"):
        open_source(tmp_path / ("x" * 300), "male")


@settings(max_examples=200)
@given(content=st.binary() | st.text().map(str.encode))
def test_any_labels_csv_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("faces")
    (path / "labels.csv").write_bytes(b"file,split,male\n" + content)
    try:
        source = open_source(path, "male")
    except DataError as error:
        assert str(path) in str(error)
        return
    for entry in source.entries:
        assert entry.split in ("train", "test")
        assert entry.label
        assert entry.name.startswith("images/")
        assert ".." not in Path(entry.name).parts


fields = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1
).filter(str.strip)


@given(
    rows=st.lists(
        st.tuples(
            fields.filter(lambda name: name.strip()[0] != "/" and ".." not in name),
            st.sampled_from(["train", "test"]),
            fields,
        ),
        min_size=1,
        unique_by=lambda row: row[0].strip(),
    )
)
def test_any_names_and_labels_come_back(tmp_path_factory, labelled, rows):
    path = labelled(tmp_path_factory.mktemp("faces"), COLUMNS, rows, {})
    assert open_source(path, "male").entries == tuple(
        Entry(f"images/{name.strip()}", split, label.strip()) for name, split, label in rows
    )


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_a_file_that_is_no_zip_is_refused(tmp_path, content):
    (tmp_path / "faces.zip").write_bytes(content)
    with pytest.raises(DataError, match="neither a folder nor a whole zip"):
        open_source(tmp_path / "faces.zip", "male")


def test_a_truncated_zip_is_refused(tmp_path, labelled):
    path = labelled(tmp_path / "faces.zip", COLUMNS, ROWS, None)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="neither a folder nor a whole zip"):
        open_source(path, "male")


def test_a_zip_of_pictures_is_a_target_domain_only(tmp_path, png):
    path = tmp_path / "cartoons.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("b.PNG", "in/a.jpg", "readme.txt", "__MACOSX/in/._a.jpg"):
            archive.writestr(name, png(1))
    entries = open_source(path, None).entries
    assert entries == (Entry("b.PNG", "train", ""), Entry("in/a.jpg", "train", ""))
    with pytest.raises(DataError, match=r"holds no labels\.csv"):
        open_source(path, "male")


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder or file"):
        open_source(tmp_path / "nowhere", "male")


@pytest.fixture
def celeba(tmp_path, png, monkeypatch) -> Path:
    """CelebA's layout with seven pictures, of which four train, two test and one is left out."""
    monkeypatch.setattr(sources, "_CELEBA_TRAIN", 4)
    monkeypatch.setattr(sources, "_CELEBA_TEST", 2)
    pictures = tmp_path / "celeba" / "img_align_celeba"
    pictures.mkdir(parents=True)
    names = [f"{number:06}.jpg" for number in range(1, 8)]
    for number, name in enumerate(names):
        (pictures / name).write_bytes(png(number))
    (pictures / ".DS_Store").write_bytes(b"")
    attributes = [f"{name} -1  {1 if n % 2 else -1}" for n, name in enumerate(names)]
    lines = ["7", "Bald Male ", *attributes]
    (pictures.parent / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    identities = [f"{name} {n // 2 + 100}" for n, name in enumerate(names)]
    (pictures.parent / "identity_CelebA.txt").write_text("\n".join(identities) + "\n")
    return pictures.parent


def test_celeba_in_its_official_layout(celeba, png):
    source = open_source(celeba, "male")
    assert [entry.name for entry in source.entries] == [
        f"img_align_celeba/{number:06}.jpg" for number in range(1, 7)
    ]
    assert [entry.split for entry in source.entries] == ["train"] * 4 + ["test"] * 2
    assert [entry.label for entry in source.entries] == ["0", "1", "0", "1", "0", "1"]
    assert next(source.read(source.entries[2:])) == png(2)


def test_celebas_other_pictures_are_told(celeba):
    told = (
        f"{celeba}: of CelebA the first 4 pictures are to train and the next 2 to test, as in the "
        "paper; not used: 1"
    )
    assert open_source(celeba, "male").remark == open_source(celeba, None).remark == told
    (celeba / "img_align_celeba" / "000007.jpg").unlink()
    assert open_source(celeba, "male").remark == ""


def test_celebas_split_is_the_papers():
    assert (sources._CELEBA_TRAIN, sources._CELEBA_TEST) == (10_000, 2_000)


def test_celebas_other_attributes(celeba):
    assert {entry.label for entry in open_source(celeba, "BALD").entries} == {"0"}
    identities = [entry.label for entry in open_source(celeba, "identity").entries]
    assert identities == ["100", "100", "101", "101", "102", "102"]
    assert {entry.label for entry in open_source(celeba, None).entries} == {""}


def test_an_attribute_that_celeba_has_not_names_those_it_has(celeba):
    with pytest.raises(DataError, match=r"no column `hat` \(it has: Bald, Male\)"):
        open_source(celeba, "hat")


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "identity_CelebA.txt"])
def test_celebas_missing_list_is_named(celeba, name):
    (celeba / name).unlink()
    attribute = "identity" if name.startswith("identity") else "male"
    with pytest.raises(DataError, match=rf"{name}: missing"):
        open_source(celeba, attribute)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "truncated"),
        ("7\n", "truncated"),
        ("7\nBald Male\n000001.jpg -1\n", "line 3: 2 fields, not 3"),
        ("7\nBald Male\n000001.jpg -1 1\n", r"000002\.jpg has no line"),
    ],
)
def test_celebas_damaged_list_is_refused(celeba, text, message):
    (celeba / "list_attr_celeba.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_source(celeba, "male")


def folder_a_person(path: Path, counts: dict[str, int]) -> Path:
    for person, count in counts.items():
        (path / person).mkdir(parents=True)
        for number in range(count):
            (path / person / f"{number:04}.jpg").touch()
        (path / person / "notes.txt").touch()
    (path / "readme.jpg").touch()
    return path


def test_a_folder_a_person_is_split_80_to_20(tmp_path):
    counts = {"Ann": 400, "Bob": 400, "Cy": 4}
    source = open_source(folder_a_person(tmp_path, counts), "identity")
    assert source.labelled_by_folder
    for person, count in counts.items():
        hers = [entry for entry in source.entries if entry.label == person]
        assert [entry.name for entry in hers] == [f"{person}/{n:04}.jpg" for n in range(count)]
        if count == 400:
            assert 60 <= sum(entry.split == "test" for entry in hers) <= 100
    assert len(source.entries) == sum(counts.values())


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", ".thumbnails"])
def test_copies_in_hidden_folders_are_no_pictures(tmp_path, hidden):
    folder_a_person(tmp_path, {"Ann": 2, "Bob": 2, hidden: 2})
    labelled, unlabelled = (open_source(tmp_path, label).entries for label in ("identity", None))
    assert {entry.label for entry in labelled} == {"Ann", "Bob"}
    # Without labels the picture beside the folders counts, too.
    assert (len(labelled), len(unlabelled)) == (4, 5)


def test_unlabelled_pictures_are_split_95_to_5(tmp_path):
    for number in range(1000):
        (tmp_path / f"{number:04}.png").touch()
    source = open_source(tmp_path, None)
    assert not source.labelled_by_folder
    assert 30 <= sum(entry.split == "test" for entry in source.entries) <= 70


def test_a_folder_a_person_keeps_its_test_pictures_without_labels(tmp_path):
    folder_a_person(tmp_path, {"Ann": 300, "Bob": 300})
    splits = {entry.name: entry.split for entry in open_source(tmp_path, "identity").entries}
    without = {entry.name: entry.split for entry in open_source(tmp_path, None).entries}
    assert {name: without[name] for name in splits} == splits
    target = open_source(tmp_path, None, "target").entries
    assert 10 <= sum(entry.split == "test" for entry in target) <= 60


def test_folders_may_be_links(tmp_path):
    folder_a_person(tmp_path / "kept", {"Ann": 20, "Bob": 20})
    (tmp_path / "linked").mkdir()
    for name in ("Ann", "Bob"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "kept" / name)
    (tmp_path / "kept" / "Ann" / "up").symlink_to(tmp_path / "linked")
    splits = {entry.name: entry.split for entry in open_source(tmp_path / "linked", "who").entries}
    without = {entry.name: entry.split for entry in open_source(tmp_path / "linked", None).entries}
    assert len(splits) == 40
    assert without == splits


@pytest.mark.parametrize("attribute", ["identity", None])
def test_pictures_added_later_change_no_others_split(tmp_path, attribute):
    folder_a_person(tmp_path, {"Ann": 50, "Bob": 50})
    before = {entry.name: entry for entry in open_source(tmp_path, attribute).entries}
    for person in ("Ann", "Bob"):
        (tmp_path / person / "0000-first.jpg").touch()
    after = {entry.name: entry for entry in open_source(tmp_path, attribute).entries}
    assert len(after) == len(before) + 2
    assert {name: after[name] for name in before} == before


def test_a_folder_of_pictures_is_a_target_domain_only(tmp_path, png):
    (tmp_path / "in").mkdir()
    for name in ("b.webp", "in/a.bmp", "c.tga"):
        (tmp_path / name).write_bytes(png(0))
    entries = open_source(tmp_path, None).entries
    assert entries == (Entry("b.webp", "train", ""), Entry("in/a.bmp", "train", ""))
    (tmp_path / "in" / "a.bmp").unlink()
    (tmp_path / "in").rmdir()
    with pytest.raises(DataError, match="labels are needed"):
        open_source(tmp_path, "male")


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match="no pictures there"):
        open_source(tmp_path, None)


@pytest.mark.parametrize("columns", [("File", "Split", "Male"), ("file", " split ", "Male ")])
def test_columns_are_found_however_they_are_written(tmp_path, labelled, png, columns):
    pictures = {row[0]: png(number) for number, row in enumerate(ROWS)}
    path = labelled(tmp_path / "faces", columns, ROWS, pictures)
    assert open_source(path, "male").entries == ENTRIES


def test_a_picture_is_of_one_split(tmp_path, labelled):
    rows = (*ROWS, ("a.png", "test", "0"))
    path = labelled(tmp_path / "faces", COLUMNS, rows, None)
    with pytest.raises(DataError, match=r"labels\.csv, line 5: a\.png is listed twice"):
        open_source(path, "male")


def test_a_zip_of_class_folders_keeps_what_the_folders_test(tmp_path, png):
    names = [f"{person}/{number}.png" for person in "abcd" for number in range(20)]
    with zipfile.ZipFile(tmp_path / "people.zip", "w") as archive:
        for name in names:
            archive.writestr(name, png(0))
            file = tmp_path / "people" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(0))
    splits = [
        {entry.name: entry.split for entry in open_source(tmp_path / name, attribute).entries}
        for name, attribute in (("people", "identity"), ("people", None), ("people.zip", None))
    ]
    assert splits[0] == splits[1] == splits[2]


def test_names_that_are_no_text_are_read(tmp_path, png):
    folder = tmp_path / "faces" / "a"
    folder.mkdir(parents=True)
    try:
        (folder / os.fsdecode(b"Ren\xe9.png")).write_bytes(png(0))
    except OSError:
        pytest.skip("this file system holds names in UTF-8 only")
    (entry,) = open_source(tmp_path / "faces", "identity").entries
    assert os.fsencode(entry.name) == b"a/Ren\xe9.png"


def test_a_list_of_celeba_that_is_no_text_is_told(tmp_path, png):
    pictures = tmp_path / "img_align_celeba"
    pictures.mkdir()
    (pictures / "000001.jpg").write_bytes(png(0))
    (tmp_path / "list_attr_celeba.txt").write_bytes(b"1\nMale\n000001.jpg \xe9\n")
    with pytest.raises(DataError, match=r"list_attr_celeba\.txt: no text in UTF-8 .*download it"):
        open_source(tmp_path, "male")


def test_what_folders_are_is_told(tmp_path, png):
    """Their names are the labels, whatever attribute is asked for, and only pictures are used."""
    for name in ("a/1.png", "a/2.tif", "b/1.png", "b/notes.txt", "b/deeper/1.png", "b/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(0))
    source = open_source(tmp_path, "male")
    assert [entry.name for entry in source.entries] == ["a/1.png", "a/2.tif", "b/1.png"]
    assert source.remark == (
        f"{tmp_path}: its 2 folders are the labels (a, b), which are called `male`; not used: 2 "
        "files and folders in them that are no pictures"
    )


@pytest.mark.parametrize("attribute", ["male", None])
def test_a_run_is_no_pictures(tmp_path, png, attribute):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "1.png").write_bytes(png(0))
    (tmp_path / CHECKPOINT_NAME).touch()
    with pytest.raises(DataError, match="a run of dtir-train, and no pictures: name it as the s"):
        open_source(tmp_path, attribute)
