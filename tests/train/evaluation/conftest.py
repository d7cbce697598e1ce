"""A bundle of four lines of arithmetic, and pictures that it reads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from dtir_sdk.bundle import TrainingData, write_bundle
from dtir_train.checkpoint import CHECKPOINT_NAME, Checkpoint, save_checkpoint
from dtir_train.networks import Generator, Recognizer

SIZE = 32
LABELS = ("cool", "warm")
PRECISION = "fp32"


def model(nodes, inputs, outputs, constants) -> bytes:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def picture_value(name: str):
    return helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", SIZE, SIZE, 3])


def inverter(source: str, target: str, white: float) -> bytes:
    """`white` minus every byte."""
    nodes = [
        helper.make_node("Cast", [source], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["white", "numbers"], ["inverted"]),
        helper.make_node("Cast", ["inverted"], [target], to=TensorProto.UINT8),
    ]
    constant = helper.make_tensor("white", TensorProto.FLOAT, [], [white])
    return model(nodes, [picture_value(source)], [picture_value(target)], [constant])


def reader() -> bytes:
    """Calls a picture cool where it holds more red than blue: cartoons are inverted."""
    nodes = [
        helper.make_node("Cast", ["transferred"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "columns"], ["two"], axis=1),
        helper.make_node("Softmax", ["two"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("columns", TensorProto.INT64, [2], [0, 2]),
    ]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])
    return model(nodes, [picture_value("transferred")], [output], constants)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Cartoons are negatives; restored photos are 5 levels darker than the photos."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    write_bundle(
        folder,
        name="tiny",
        image_size=SIZE,
        attribute="mood",
        labels=LABELS,
        role="full",
        models={
            "transfer": (inverter("image", "transferred", 255.0), PRECISION),
            "recognizer": (reader(), PRECISION),
            "restorer": (inverter("transferred", "restored", 250.0), PRECISION),
        },
        metrics={},
        training_data=[TrainingData("none", "CC0", 0)],
        intended_use="tests",
        limits=["knows nothing"],
        created=date(2025, 1, 2),
    )
    return folder


def _write_set(path: Path, rows: list[tuple[str, str, str]], pictures: dict[str, bytes]) -> Path:
    (path / "images").mkdir(parents=True)
    lines = ["file,split,mood", *(",".join(row) for row in rows)]
    (path / "labels.csv").write_text("\n".join(lines) + "\n")
    for name, stream in pictures.items():
        (path / "images" / name).write_bytes(stream)
    return path


def _noisy(bgr: tuple[int, int, int], seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(-30, 31, (SIZE, SIZE, 3))
    return cv2.imencode(".png", (noise + bgr).clip(5, 255).astype(np.uint8))[1].tobytes()


@pytest.fixture(scope="module")
def secret(tmp_path_factory) -> Path:
    """Blue pictures are cool and red ones warm, but for one of the eight to test."""
    rows, pictures = [], {}
    for number in range(40):
        label = LABELS[number % 2]
        name, split = f"{number}.png", "test" if number >= 32 else "train"
        pictures[name] = _noisy((200, 90, 60) if label == "cool" else (60, 90, 200), number)
        rows.append((name, split, "cool" if number == 39 else label))
    return _write_set(tmp_path_factory.mktemp("secret") / "moods", rows, pictures)


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    rows = [(f"{n}.png", "test" if n >= 32 else "train", "none") for n in range(40)]
    pictures = {row[0]: _noisy((240, 240, 240), n) for n, row in enumerate(rows)}
    return _write_set(tmp_path_factory.mktemp("target") / "cartoons", rows, pictures)


@pytest.fixture(scope="session")
def write_set() -> Callable[[Path, list[tuple[str, ...]], dict[str, bytes]], Path]:
    """Writes a source: its folder, the rows `file, split, mood` and each file's bytes."""
    return _write_set


@pytest.fixture(scope="session")
def noisy() -> Callable[[tuple[int, int, int], int], bytes]:
    """Makes a PNG of a colour, BGR, under noise of a seed."""
    return _noisy


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory, small) -> Path:
    """A run as training leaves it, but that its networks learnt nothing."""
    configuration = small()
    sizes = configuration.networks
    tensors = {}
    for seed, average in enumerate(("", "averaged/")):
        torch.manual_seed(seed)
        networks = {
            "transfer": Generator(sizes.channels, sizes.blocks),
            "restorer": Generator(sizes.channels, sizes.blocks),
            "recognizer": Recognizer(2, sizes.backbone, sizes.recognizer_width),
        }
        tensors |= {average + name: network.state_dict() for name, network in networks.items()}
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    checkpoint = Checkpoint(configuration, ("disc", "square"), 2, tensors)
    save_checkpoint(checkpoint, folder / CHECKPOINT_NAME)
    return folder
