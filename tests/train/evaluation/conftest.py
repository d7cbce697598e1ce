"""A bundle of four lines of arithmetic, and pictures that it reads."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from dtir_sdk.bundle_writing import write_bundle
from dtir_sdk.manifest import TrainingData
from dtir_train.building import build_generator, build_recognizer
from dtir_train.checkpoint import CHECKPOINT_NAME, Checkpoint, save_checkpoint

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


def blank(source: str, target: str) -> bytes:
    """Zeros, whatever the picture."""
    nodes = [
        helper.make_node("Cast", [source], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["numbers", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], [target], to=TensorProto.UINT8),
    ]
    constant = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    return model(nodes, [picture_value(source)], [picture_value(target)], [constant])


def _write_bundle(folder: Path, transfer: bytes) -> Path:
    write_bundle(
        folder,
        name=folder.name,
        image_size=SIZE,
        attribute="mood",
        labels=LABELS,
        role="full",
        models={
            "transfer": (transfer, PRECISION),
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


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Cartoons are negatives; restored photos are 5 levels darker than the photos."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    return _write_bundle(folder, inverter("image", "transferred", 255.0))


@pytest.fixture(scope="module")
def blank_bundle(tmp_path_factory) -> Path:
    """Cartoons are all black, so that nothing can be read from them or restored."""
    return _write_bundle(tmp_path_factory.mktemp("bundle") / "blank", blank("image", "transferred"))


@pytest.fixture(scope="module")
def secret(tmp_path_factory, write_set, noisy) -> Path:
    """Blue pictures are cool and red ones warm, but for one of the eight to test."""
    rows, pictures = [], {}
    for number in range(40):
        label = LABELS[number % 2]
        name, split = f"{number}.png", "test" if number >= 32 else "train"
        pictures[name] = noisy((200, 90, 60) if label == "cool" else (60, 90, 200), number)
        rows.append((name, split, "cool" if number == 39 else label))
    return write_set(tmp_path_factory.mktemp("secret") / "moods", rows, pictures)


@pytest.fixture(scope="module")
def target(tmp_path_factory, write_set, noisy) -> Path:
    rows = [(f"{n}.png", "test" if n >= 32 else "train", "none") for n in range(40)]
    pictures = {row[0]: noisy((240, 240, 240), n) for n, row in enumerate(rows)}
    return write_set(tmp_path_factory.mktemp("target") / "cartoons", rows, pictures)


@pytest.fixture(scope="module")
def patterned(tmp_path_factory, write_set) -> tuple[Path, Path]:
    """Photos whose negatives are the target pictures but for a fine pattern; and those."""
    checks = np.indices((SIZE, SIZE)).sum(axis=0)[..., np.newaxis] % 2 * 12
    folder = tmp_path_factory.mktemp("patterned")
    colours = [(190 - n, 90, 60 + n) if n % 2 else (60 + n, 90, 190 - n) for n in range(40)]
    rows = [(f"{n}.png", "test" if n >= 32 else "train", LABELS[1 - n % 2]) for n in range(40)]

    def drawn(colours: list[tuple[int, ...]], pattern: np.ndarray | int) -> dict[str, bytes]:
        pictures = [np.full((SIZE, SIZE, 3), colour) + pattern for colour in colours]
        return {
            f"{n}.png": cv2.imencode(".png", picture.astype(np.uint8))[1].tobytes()
            for n, picture in enumerate(pictures)
        }

    negatives = [tuple(249 - part for part in colour) for colour in colours]
    return (
        write_set(folder / "secret", rows, drawn(colours, checks)),
        write_set(folder / "target", rows, drawn(negatives, 0)),
    )


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory, small) -> Path:
    """A run as training leaves it, but that its networks learnt nothing."""
    configuration = small()
    sizes = configuration.networks
    tensors = {}
    for seed, average in enumerate(("", "averaged/")):
        torch.manual_seed(seed)
        networks = {
            "transfer": build_generator(sizes),
            "restorer": build_generator(sizes),
            "recognizer": build_recognizer(sizes, 2),
        }
        tensors |= {average + name: network.state_dict() for name, network in networks.items()}
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    checkpoint = Checkpoint(configuration, ("disc", "square"), 2, tensors)
    save_checkpoint(checkpoint, folder / CHECKPOINT_NAME)
    return folder
