from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dtir_sdk.bundle import Bundle
from dtir_sdk.errors import BundleError, OutputError
from dtir_sdk.manifest import MANIFEST


def test_replaces_a_bundle(new_bundle, tiny, tmp_path):
    new_bundle()
    models = {name: tiny.graphs[name] for name in ("transfer", "recognizer")}
    second = new_bundle(name="second", models=models)
    assert Bundle.open(second.folder).manifest.name == "second"
    assert not (second.folder / "restorer.onnx").exists()
    assert list(tmp_path.iterdir()) == [second.folder]


def test_replaces_what_a_link_leads_to(new_bundle, tmp_path):
    folder = new_bundle().folder
    folder.rename(tmp_path / "real")
    folder.symlink_to(tmp_path / "real")
    new_bundle(name="second")
    assert folder.is_symlink()
    assert Bundle.open(tmp_path / "real").manifest.name == "second"


def test_replaces_a_damaged_bundle(new_bundle):
    first = new_bundle()
    first.model_path("transfer").write_bytes(b"cut sh")
    first.model_path("recognizer").unlink()
    new_bundle().verify()


def test_refuses_another_folder(tmp_path, tiny):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds something that is no bundle"):
        tiny.write(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(OutputError, match="is a file"):
        tiny.write(tmp_path / "thesis.txt")


@pytest.mark.parametrize(
    "manifest",
    [b'{"manifest_version": 3, "name": "mine"}', b'{"format_version": 99}', b"\xff", b""],
)
def test_refuses_a_folder_with_a_manifest_of_something_else(tmp_path, tiny, manifest):
    """A browser extension's, say."""
    (tmp_path / MANIFEST).write_bytes(manifest)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds no bundle \(.*manifest\.json"):
        tiny.write(tmp_path)
    assert (tmp_path / MANIFEST).read_bytes() == manifest
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["notes.txt", ".git/HEAD", "report/parity.json"])
def test_refuses_a_bundle_in_which_something_else_lies(new_bundle, name):
    path = new_bundle().folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(OutputError, match=rf"holds more than a bundle \({name.split('/')[0]}\)"):
        new_bundle(name="second")
    assert path.read_text() == "mine"
    assert Bundle.open(path.parents[name.count("/")]).manifest.name == "tiny"


def test_refuses_a_bundle_with_a_folder_in_place_of_a_graph(new_bundle):
    path = new_bundle().model_path("restorer")
    path.unlink()
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(OutputError, match=r"holds more than a bundle \(restorer\.onnx\)"):
        new_bundle()
    assert (path / "mine").exists()


def test_fills_an_empty_folder(tmp_path, tiny):
    tiny.write(tmp_path / "new" / "folder")
    (tmp_path / "empty").mkdir()
    tiny.write(tmp_path / "empty").verify()


def test_an_empty_folder_stays_the_same_folder(tmp_path, tiny):
    """It may be a mount, the shell's own, or kept from others, as a restorer should be."""
    folder = tmp_path / "private"
    folder.mkdir(0o700)
    before = folder.stat()
    tiny.write(folder, "authority").verify()
    assert (folder.stat().st_ino, folder.stat().st_mode) == (before.st_ino, before.st_mode)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "restorer.onnx"]


def test_an_empty_folder_has_its_manifest_last(tmp_path, tiny, monkeypatch):
    rename, moved = Path.rename, []

    def interrupted(path, target):
        if path.name == MANIFEST:
            moved.extend(sorted(each.name for each in tmp_path.glob("*.onnx")))
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny.write(tmp_path, "edge")
    assert moved == ["transfer.onnx"]
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_bundle_keeps_its_permissions(new_bundle):
    folder = new_bundle().folder
    folder.chmod(0o750)
    new_bundle(name="second")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_the_current_folder_is_filled_but_not_replaced(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write(Path(), "edge")
    with pytest.raises(OutputError, match="is the current folder, and holds a bundle"):
        tiny.write(Path(), "edge")
    Bundle.open(".").verify()


def test_interrupted_as_the_old_bundle_has_just_been_moved(new_bundle, tmp_path, monkeypatch):
    first = new_bundle()
    rename = Path.rename

    def interrupted(path, target):
        moved = rename(path, target)
        if path == first.folder:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        new_bundle(name="second")
    assert Bundle.open(first.folder).manifest.name == "tiny"
    assert list(tmp_path.iterdir()) == [first.folder]


def test_a_folder_that_cannot_be_looked_at(tmp_path, tiny):
    with pytest.raises(OutputError, match="file name too long"):
        tiny.write(tmp_path / ("a" * 300))


@pytest.mark.usefixtures("full_disk")
def test_full_disk_keeps_the_old_bundle(new_bundle, tmp_path):
    with pytest.raises(OutputError, match="no space left"):
        new_bundle()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_at_a_replacement(new_bundle, tmp_path, request):
    first = new_bundle()
    request.getfixturevalue("full_disk")
    with pytest.raises(OutputError, match="no space left"):
        new_bundle(name="second")
    assert Bundle.open(first.folder).manifest.name == "tiny"
    assert list(tmp_path.iterdir()) == [first.folder]


def test_metrics_that_are_no_json(new_bundle):
    with pytest.raises(BundleError, match="JSON"):
        new_bundle(metrics={"accuracy": float("nan")})
    with pytest.raises(BundleError, match="JSON"):
        new_bundle(metrics={"accuracy": object()})


def test_a_name_that_is_no_text(new_bundle, tmp_path):
    with pytest.raises(BundleError, match="JSON"):
        new_bundle(name="a\udcffb")
    assert list(tmp_path.iterdir()) == []
