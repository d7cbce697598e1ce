"""Tiny bundles with the exact signatures, and a portrait: no real data, no download."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper

from dtir_sdk.bundle import Bundle
from dtir_sdk.bundle_writing import write_bundle
from dtir_sdk.manifest import TrainingData
from dtir_sdk.pictures import read_picture
from dtir_sdk.sources import SAMPLE_PORTRAIT

# How long an example takes says how busy the machine is.
settings.register_profile("sdk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sdk")

SIZE = 32
LABELS = ("female", "male")


def model(nodes, inputs, outputs, constants=()) -> bytes:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(constants))
    opset = [helper.make_opsetid("", 18)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def picture_value(name: str, size: int = SIZE, kind: int = TensorProto.UINT8):
    return helper.make_tensor_value_info(name, kind, ["N", size, size, 3])


def inverter(source: str = "image", target: str = "transferred", size: int = SIZE) -> bytes:
    """255 minus every byte."""
    nodes = [
        helper.make_node("Cast", [source], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["white", "numbers"], ["inverted"]),
        helper.make_node("Cast", ["inverted"], [target], to=TensorProto.UINT8),
    ]
    white = helper.make_tensor("white", TensorProto.FLOAT, [], [255.0])
    return model(nodes, [picture_value(source, size)], [picture_value(target, size)], [white])


def reader(kind: str = "Softmax", size: int = SIZE) -> bytes:
    """Softmax of the mean red and blue (in RGB) divided by 16; with kind="Log" it makes NaN."""
    nodes = [
        helper.make_node("Cast", ["transferred"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "columns"], ["two"], axis=1),
        helper.make_node("Div", ["two", "scale"], ["scores"]),
    ]
    if kind == "Log":
        nodes.append(helper.make_node("Neg", ["scores"], ["negative"]))
        nodes.append(helper.make_node("Sub", ["negative", "one"], ["below"]))
        nodes.append(helper.make_node("Log", ["below"], ["probabilities"]))
    else:
        nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("columns", TensorProto.INT64, [2], [0, 2]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [16.0]),
    ]
    if kind == "Log":
        constants.append(helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]))
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])
    return model(nodes, [picture_value("transferred", size)], [output], constants)


GRAPHS = {
    "transfer": (inverter(), "fp32"),
    "recognizer": (reader(), "fp32"),
    "restorer": (inverter("transferred", "restored"), "fp32"),
}
HOLDS = {
    "full": ("transfer", "recognizer", "restorer"),
    "edge": ("transfer",),
    "cloud": ("recognizer",),
    "authority": ("restorer",),
}


def write(folder: Path, role: str = "full", **changes) -> Bundle:
    values = {
        "name": "tiny",
        "image_size": SIZE,
        "attribute": "gender",
        "labels": LABELS,
        "role": role,
        "models": {name: GRAPHS[name] for name in HOLDS[role]},
        "metrics": {"accuracy": 0.5},
        "training_data": [TrainingData("none", "CC0", 0)],
        "intended_use": "tests",
        "limits": ["knows nothing"],
        "created": date(2025, 1, 2),
    }
    return write_bundle(folder, **(values | changes))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def new_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Writes a bundle of this test's own; arguments as `write`'s."""

    def make(role: str = "full", **changes) -> Bundle:
        return write(tmp_path / f"bundle-{role}", role, **changes)

    return make


@pytest.fixture(scope="session")
def portrait_path() -> Path:
    return SAMPLE_PORTRAIT


@pytest.fixture(scope="session")
def portrait(portrait_path: Path) -> np.ndarray:
    """uint8 [H, W, 3] BGR with one face."""
    picture = read_picture(portrait_path)
    picture.setflags(write=False)
    return picture


@pytest.fixture(scope="session")
def blank() -> np.ndarray:
    """uint8 [96, 128, 3] BGR without a face; noise, so that a leak of it can be told."""
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The helpers above, for tests that build graphs and bundles of their own."""
    return SimpleNamespace(
        size=SIZE,
        labels=LABELS,
        graphs=GRAPHS,
        model=model,
        picture_value=picture_value,
        inverter=inverter,
        reader=reader,
        write=write,
    )


@pytest.fixture(scope="session")
def write_film() -> Callable[..., Path]:
    """Writes a small MP4 of frames of one size, uint8 [H, W, 3] BGR."""

    def write(path: Path | str, frames: Iterable[np.ndarray], rate: float = 5) -> Path:
        writer = None
        for frame in frames:
            if writer is None:
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                assert writer.isOpened()
            writer.write(frame)
        writer.release()
        return Path(path)

    return write


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fsync finds the disk full, as it does where the file system allocates late."""

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
