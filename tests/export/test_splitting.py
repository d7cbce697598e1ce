from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dtir_export.splitting import split_bundle
from dtir_sdk.bundle import Bundle
from dtir_sdk.errors import BundleError, ConfigurationError
from dtir_sdk.manifest import MANIFEST

HOLDS = {"edge": "transfer", "cloud": "recognizer", "authority": "restorer"}


@pytest.mark.parametrize("role", HOLDS)
def test_holds_only_what_the_party_may(role: str, bundle: Path, tmp_path: Path) -> None:
    split = split_bundle(bundle, tmp_path / "part", role)
    assert sorted(file.name for file in split.folder.iterdir()) == [
        *sorted(("manifest.json", f"{HOLDS[role]}.onnx"))
    ]
    split.verify()
    manifest, whole = split.manifest, Bundle.open(bundle).manifest
    assert manifest.role == role
    assert manifest.files == {HOLDS[role]: whole.files[HOLDS[role]]}
    # All else it says of itself is as it was.
    same = {"role": whole.role, "files": whole.files, "created": whole.created}
    assert replace(manifest, **same) == whole


def test_whole_copy_with_another_name(bundle: Path, tmp_path: Path) -> None:
    copy = split_bundle(bundle, tmp_path / "copy", "full", "other")
    assert copy.manifest.name == "other"
    assert len(copy.manifest.files) == 3


def test_cannot_make_more_of_less(bundle: Path, tmp_path: Path) -> None:
    split_bundle(bundle, tmp_path / "edge", "edge")
    for role, missing in (("cloud", "recognizer"), ("full", "recognizer")):
        with pytest.raises(BundleError, match=f"'edge' without a {missing}"):
            split_bundle(tmp_path / "edge", tmp_path / "out", role)
    assert not (tmp_path / "out").exists()


def test_changed_graph_is_refused(bundle: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(bundle, tmp_path / "changed"))
    data = bytearray((changed / "transfer.onnx").read_bytes())
    data[-100] ^= 1
    (changed / "transfer.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="SHA-256"):
        split_bundle(changed, tmp_path / "out", "edge")
    assert not (tmp_path / "out").exists()


def test_graph_in_the_place_of_another_is_refused(bundle: Path, tmp_path: Path) -> None:
    """An edge bundle must not come to hold the restorer, whatever the manifest calls it."""
    mixed = Path(shutil.copytree(bundle, tmp_path / "mixed"))
    manifest = json.loads((mixed / MANIFEST).read_text())
    manifest["files"]["transfer"] = manifest["files"]["restorer"]
    (mixed / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"restorer\.onnx has the signature transferred .* image"):
        split_bundle(mixed, tmp_path / "out", "edge")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", " ", "caf\udce9"])
def test_name_that_is_none(bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name for a bundle: give one with --name"):
        split_bundle(bundle, tmp_path / "out", "edge", name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", [".", "part"])
def test_never_over_its_source(below: str, bundle: Path) -> None:
    with pytest.raises(ConfigurationError, match="--output"):
        split_bundle(bundle, bundle / below, "edge")
    Bundle.open(bundle).verify()
