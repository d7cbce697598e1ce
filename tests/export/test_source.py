from __future__ import annotations

import os
from pathlib import Path

import pytest

from dtir_export import source
from dtir_export.source import find_source
from dtir_sdk.errors import ConfigurationError
from dtir_train import checkpoint


def make(path: Path, time: int = 1) -> Path:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    os.utime(path, (time, time))
    return path


def test_same_name_as_in_training() -> None:
    assert source.CHECKPOINT_NAME == checkpoint.CHECKPOINT_NAME


def test_newest_run(tmp_path: Path) -> None:
    make(tmp_path / "a" / "checkpoint.safetensors", 10)
    newest = make(tmp_path / "b" / "deep" / "checkpoint.safetensors", 30)
    make(tmp_path / "c" / "checkpoint.safetensors", 20)
    make(tmp_path / "d" / "checkpoint.safetensors.partial", 40)
    found = find_source(None, tmp_path)
    assert (found.kind, found.path) == ("checkpoint", newest)
    assert "newest run" in found.why


def test_bundled_model_where_there_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "default_folder", lambda: tmp_path / "default")
    with pytest.raises(ConfigurationError, match=r"nothing to export.*dtir-train fit"):
        find_source(None, tmp_path / "runs")
    make(tmp_path / "default" / "manifest.json")
    found = find_source(None, tmp_path / "runs")
    assert (found.kind, found.path) == ("bundle", tmp_path / "default")


def test_named(tmp_path: Path) -> None:
    path = make(tmp_path / "run" / "checkpoint.safetensors")
    make(tmp_path / "bundle" / "manifest.json")
    assert find_source(path).path == path
    assert find_source(path.parent).path == path
    assert find_source(tmp_path / "bundle").kind == "bundle"
    with pytest.raises(ConfigurationError, match="holds neither"):
        find_source(tmp_path)
    with pytest.raises(ConfigurationError, match="is not there"):
        find_source(tmp_path / "nothing")
