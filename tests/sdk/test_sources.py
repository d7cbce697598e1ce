from __future__ import annotations

import pytest

from dtir_sdk.errors import PictureError
from dtir_sdk.sources import find_sources, is_video, passed_over


@pytest.fixture
def folder(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "film.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "inner.png").mkdir()
    (tmp_path / "inner.png" / "c.png").write_bytes(b"x")
    return tmp_path


def test_file(folder):
    assert find_sources(folder / "notes.txt") == (folder / "notes.txt",)


def test_folder(folder):
    assert [path.name for path in find_sources(folder)] == ["a.png", "b.JPG", "film.mp4"]


def test_pattern(folder):
    assert [path.name for path in find_sources(f"{folder}/*.png")] == ["a.png"]
    assert [path.name for path in find_sources(f"{folder}/**/*.png")] == ["a.png", "c.png"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    (tmp_path / "a[1].png").write_bytes(b"x")
    assert find_sources(tmp_path / "a[1].png") == (tmp_path / "a[1].png",)


@pytest.mark.parametrize(
    ("source", "words"),
    [("none.png", "is not there"), ("*.gif", "no file fits"), ("a\0b", "could not be read|there")],
)
def test_nothing(folder, source, words):
    with pytest.raises(PictureError, match=words):
        find_sources(f"{folder}/{source}")


def test_folder_without_pictures(tmp_path):
    with pytest.raises(PictureError, match="holds no picture or video"):
        find_sources(tmp_path)


def test_video(folder):
    assert is_video(folder / "film.MP4")
    assert not is_video(folder / "b.JPG")


def test_an_empty_name_is_not_the_folder_one_is_in(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert find_sources(".")
    with pytest.raises(PictureError, match="the source has no name"):
        find_sources("")


@pytest.mark.parametrize("suffix", [".jfif", ".AVIF", ".gif", ".3gp", ".MTS", ".wmv"])
def test_rarer_suffixes(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert find_sources(tmp_path) == (tmp_path / f"a{suffix}",)


def test_what_is_passed_over(folder):
    for name in ("a.HEIC", "b.heic", "README", ".hidden"):
        (folder / name).write_bytes(b"x")
    assert passed_over(folder) == {".heic": 2, ".txt": 1, "": 1}
    assert passed_over(folder / "a.png") == passed_over(f"{folder}/*") == {}


def test_hidden_files_are_no_sources(folder):
    for name in ("._a.png", ".a.png.1234abcd.part.png", ".notes.txt"):
        (folder / name).write_bytes(b"x")
    assert [path.name for path in find_sources(folder)] == ["a.png", "b.JPG", "film.mp4"]
    assert passed_over(folder) == {".txt": 1}
