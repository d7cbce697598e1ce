"""What is measured: a preset's networks, the faces they are given, and the files made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from portrait import portrait_crops

from dtir_export.graphs import export_graphs
from dtir_export.onnx_graph import read_graph
from dtir_export.pictures import PictureSources
from dtir_export.progress import Narrator
from dtir_export.quantization import calibrate, layers, quantize
from dtir_sdk.bundle import Bundle
from dtir_sdk.bundle_writing import write_bundle
from dtir_sdk.manifest import FilePrecision, ModelName
from dtir_train.building import build_generator, build_recognizer
from dtir_train.channel import from_bytes
from dtir_train.checkpoint import TrainedNetworks, load_trained
from dtir_train.configuration import PRESETS
from dtir_train.networks import Recognizer, initialise

Preset = Literal["base", "edge"]
Pictures = NDArray[np.uint8]
MODELS: tuple[ModelName, ...] = ("transfer", "recognizer")
_LABELS = ("female", "male")


@dataclass(frozen=True)
class Subject:
    """Two networks and the ONNX files made of them, by `dtir-export`'s own code.

    Attributes:
        name: preset or run, and side of the pictures.
        networks: in PyTorch, float32.
        graphs: FP32 ONNX files.
    """

    name: str
    networks: TrainedNetworks
    graphs: Mapping[ModelName, bytes]

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.networks.configuration.networks.image_size

    def write_bundle(
        self, folder: Path, graphs: Mapping[ModelName, bytes], precision: FilePrecision
    ) -> Bundle:
        """Writes graphs of these networks as a bundle, so that the SDK takes them.

        Args:
            folder: where to.
            graphs: ONNX files.
            precision: that they are stored in.

        Raises:
            OutputError: it cannot be written.
        """
        return write_bundle(
            folder,
            name=self.name,
            image_size=self.size,
            attribute="male",
            labels=self.networks.labels,
            role="full",
            models={model: (data, precision) for model, data in graphs.items()},
            metrics={},
            training_data=(),
            intended_use="Measurements of speed.",
            limits=("It may be untrained.",),
        )


def preset_subject(preset: Preset, size: int, faces: Pictures) -> Subject:
    """Makes a preset's networks with random weights, which are as fast as trained ones.

    Args:
        preset: whose sizes.
        size: side S of the pictures.
        faces: uint8 [N, S, S, 3], RGB: sets the recognizer's running means and variances, without
            which an untrained one leaves every range.
    """
    configuration = PRESETS[preset]
    sizes = dataclasses.replace(configuration.networks, image_size=size)
    configuration = dataclasses.replace(configuration, networks=sizes)
    torch.manual_seed(0)
    transfer = build_generator(sizes)
    restorer = build_generator(sizes)
    recognizer = build_recognizer(sizes, len(_LABELS))
    for network in (transfer, restorer, recognizer):
        initialise(network)
        network.eval().requires_grad_(False)
    _settle(recognizer, faces)
    networks = TrainedNetworks(transfer, recognizer, restorer, configuration, _LABELS, 0)
    return Subject(f"{preset} {size}x{size}", networks, export_graphs(networks, MODELS))


def trained_subject(run: Path) -> Subject:
    """Loads a run's networks.

    Args:
        run: its folder, or a checkpoint.

    Raises:
        ConfigurationError: it is no run.
    """
    networks = load_trained(run)
    size = networks.configuration.networks.image_size
    return Subject(f"{run.resolve().name} {size}x{size}", networks, export_graphs(networks, MODELS))


def _settle(recognizer: Recognizer, faces: Pictures) -> None:
    for module in recognizer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # The plain mean over what is seen.
            module.momentum = None
    recognizer.train()
    recognizer(from_bytes(torch.from_numpy(faces).permute(0, 3, 1, 2)))
    recognizer.eval()


def int8_graphs(subject: Subject, faces: Pictures) -> dict[ModelName, bytes]:
    """Puts every layer of the graphs into INT8: the most that INT8 can gain, whatever the loss.

    Args:
        subject: whose graphs.
        faces: uint8 [N, S, S, 3], RGB, which set the ranges of the recognizer's layers too: the
            ranges do not change its speed.
    """
    quantized: dict[ModelName, bytes] = {}
    for model, data in subject.graphs.items():
        graph = read_graph(data, f"{model}.onnx")
        ranges = calibrate(graph, faces, Narrator(), model)
        quantized[model] = quantize(graph, ranges, layers(graph))
    return quantized


def half_graphs(subject: Subject) -> dict[ModelName, bytes]:
    """Exports the networks in FP16, as `dtir-export --fp16` does."""
    return export_graphs(subject.networks, MODELS, "fp16")


def face_crops(source: Path | None, size: int, count: int) -> Pictures:
    """Cuts out faces as the SDK does.

    Args:
        source: a picture, folder or zip; None is the portrait that comes with dtir, each time
            with other shifts.
        size: side S of the crops.
        count: N.

    Returns:
        uint8 [N, S, S, 3], RGB.

    Raises:
        DataError: the source cannot be used.
        PictureError: no face was found.
    """
    if source is not None:
        found = PictureSources((str(source),), size, align=True, seed=None).take(count).pictures
        return np.resize(found, (count, size, size, 3))
    return portrait_crops(size, count)
