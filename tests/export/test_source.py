from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

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


def test_a_recognizer_of_photos_is_no_run_to_export(tmp_path: Path) -> None:
    system = make(tmp_path / "system" / "checkpoint.safetensors", 10)
    save_file({"transfer/a": torch.ones(1), "recognizer/a": torch.ones(1)}, system)
    recognizer = make(tmp_path / "photos" / "checkpoint.safetensors")
    save_file({"recognizer/a": torch.ones(1)}, recognizer, {"format": "any"})
    assert recognizer.stat().st_mtime > 10
    os.utime(system, (10, 10))
    assert find_source(None, tmp_path).path == system


@settings(deadline=None)
@given(
    st.binary(max_size=50)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=9) | st.just("__metadata__"),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=5,
    ).map(lambda value: len(text := json.dumps(value).encode()).to_bytes(8, "little") + text)
)
def test_whatever_lies_there_is_left_to_the_export(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("runs") / "run" / "checkpoint.safetensors"
    make(path).write_bytes(content)
    assert find_source(None, path.parent.parent).path == path


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


def test_what_cannot_be_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="file name too long"):
        find_source(tmp_path / ("a" * 300))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").symlink_to("gone")
    with pytest.raises(ConfigurationError, match=r"run/checkpoint\.safetensors could not be read"):
        find_source(None, tmp_path)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    make(tmp_path / "run" / "checkpoint.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ConfigurationError, match=r'safetensors is not .*"dtir\[export\]", or name'):
        find_source(None, tmp_path)
