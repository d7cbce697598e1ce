"""Graphs to run, and a cache to keep engines in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from dtir_sdk.engines import Graph, Signature, Tensor


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The engine cache: a folder of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DTIR_CACHE", str(folder))
    return folder


@pytest.fixture
def transfer(tiny: SimpleNamespace) -> Graph:
    side = (None, tiny.size, tiny.size, 3)
    return Graph(
        tiny.inverter(),
        "transfer.onnx",
        "fp32",
        Signature((Tensor("image", "uint8", side),), (Tensor("transferred", "uint8", side),)),
    )


@pytest.fixture
def recognizer(tiny: SimpleNamespace) -> Graph:
    side = (None, tiny.size, tiny.size, 3)
    return Graph(
        tiny.reader(),
        "recognizer.onnx",
        "fp32",
        Signature(
            (Tensor("transferred", "uint8", side),),
            (Tensor("probabilities", "float32", (None, 2)),),
        ),
    )
