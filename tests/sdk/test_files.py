from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dtir_sdk.errors import OutputError
from dtir_sdk.files import check_writable, reason, remove, replacing, write_atomically


def test_writes_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [file.name for file in path.parent.iterdir()] == ["note.txt"]


def test_a_name_may_be_as_long_as_the_disk_takes(tmp_path):
    path = tmp_path / f"{'x' * 250}.txt"
    write_atomically(path, b"one")
    assert path.read_bytes() == b"one"


def test_mode_is_that_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "atomic", b"")
    (tmp_path / "plain").write_bytes(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("atomic", "plain")}
    assert len(modes) == 1


@pytest.mark.usefixtures("full_disk")
def test_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="no space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_interruption_leaves_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_in_the_way(tmp_path):
    for path in (tmp_path, Path(), Path("/")):
        with pytest.raises(OutputError, match="is a folder"):
            write_atomically(path, b"")


def test_file_where_a_folder_must_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="could not be written"):
        write_atomically(tmp_path / "file" / "note.txt", b"")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="is a device or a pipe: name a file instead"):
        write_atomically(pipe, b"new")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_can_be_written_to_is_left_as_it_is(tmp_path):
    check_writable(tmp_path / "new" / "deep")
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("file", "file/results"):
        with pytest.raises(OutputError, match=f"nothing can be written to .*{folder}: not a dir"):
            check_writable(tmp_path / folder)


def test_a_folder_whose_name_no_disk_takes_is_told(tmp_path):
    with pytest.raises(OutputError, match=r"nothing can be written to .*: file name too long"):
        check_writable(tmp_path / ("x" * 300))


def test_a_file_is_removed_where_there_is_one(tmp_path):
    file = tmp_path / "file"
    file.touch()
    remove(file)
    remove(file)
    remove(file / "below")
    assert not file.exists()


def test_openvino_says_why_and_not_where():
    text = "Exception from src/inference/src/cpp/core.cpp:105:\nUnknown operator\n"
    assert reason(RuntimeError(text)) == "unknown operator"
    assert reason(RuntimeError(text.splitlines()[0])) == text.splitlines()[0].replace("E", "e", 1)


def test_a_link_stays_and_what_it_names_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "note.txt"
    link.symlink_to(tmp_path / "far" / "real.txt")
    for content in (b"first", b"again"):
        write_atomically(link, content)
        assert link.is_symlink()
        assert (tmp_path / "far" / "real.txt").read_bytes() == content
    assert len(list((tmp_path / "far").iterdir())) == 1


@pytest.mark.parametrize("stem", ["\u5199" * 83, "\U0001f600" * 62, "a" * 251])
def test_a_name_as_long_as_a_disk_takes(tmp_path, stem):
    write_atomically(tmp_path / f"{stem}.txt", b"text")
    assert [file.name for file in tmp_path.iterdir()] == [f"{stem}.txt"]
