"""FP32 graphs become INT8 graphs: calibrated, and layer by layer only where the gate allows it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dtir_export.fallback import Aim, Layers, Outputs, choose_layers
from dtir_export.onnx_graph import read_graph
from dtir_export.original import BATCH, infer_all, reference_engine
from dtir_export.parity import Thresholds
from dtir_export.progress import Narrator
from dtir_export.quantization import calibrate, layers, quantize
from dtir_sdk.bundle import FilePrecision, ModelName

# Calibration pictures on which layers are chosen, at most; all of them set the ranges. Of fewer
# than 200 not one label could differ within the margin.
_CHOSEN_ON: Mapping[ModelName, int] = {"transfer": 64, "restorer": 64, "recognizer": 256}


@dataclass(frozen=True)
class Int8Graphs:
    """What became of FP32 graphs.

    Attributes:
        graphs: the ONNX files.
        layers: of each graph, the layers in INT8 and those kept in FP32.
    """

    graphs: Mapping[ModelName, bytes]
    layers: Mapping[ModelName, Layers]


def int8_graphs(
    graphs: Mapping[ModelName, bytes],
    photos: NDArray[np.uint8],
    cartoons: NDArray[np.uint8],
    classes: int,
    aim: Thresholds,
    narrator: Narrator,
) -> Int8Graphs:
    """Quantises graphs.

    Args:
        graphs: FP32 ONNX files.
        photos: uint8 [N, S, S, 3], RGB: private pictures that the gate does not judge on.
        cartoons: uint8 [N, S, S, 3], RGB: what the transfer generator makes of them.
        classes: number K of labels.
        aim: what the graphs must reach against their FP32 selves.
        narrator: is told the progress.

    Raises:
        BundleError: a graph is truncated, of another opset, or holds what is not converted.
        ConfigurationError: the aim is out of reach in INT8.
        EngineError: ONNX Runtime is missing or cannot run a graph.
    """
    done: dict[ModelName, tuple[bytes, Layers]] = {}
    for model, data in graphs.items():
        psnr = aim.restored_psnr if model == "restorer" else aim.cartoon_psnr
        pictures = photos if model == "transfer" else cartoons
        done[model] = _int8_graph(
            model, data, pictures, classes, Aim(psnr, aim.label_agreement), narrator
        )
    return Int8Graphs(
        {model: data for model, (data, _) in done.items()},
        {model: found for model, (_, found) in done.items()},
    )


def _int8_graph(
    model: ModelName,
    data: bytes,
    pictures: NDArray[np.uint8],
    classes: int,
    aim: Aim,
    narrator: Narrator,
) -> tuple[bytes, Layers]:
    graph = read_graph(data, f"{model}.onnx")
    text = f"calibrating {model} on {len(pictures)} pictures"
    ranges = calibrate(graph, pictures, narrator, text)
    judged = pictures[:: math.ceil(len(pictures) / _CHOSEN_ON[model])]

    def run(names: Collection[str]) -> Outputs:
        precision: FilePrecision = "int8" if names else "fp32"
        return _run(model, quantize(graph, ranges, names), precision, judged, classes)

    found = choose_layers(model, layers(graph), run, aim, narrator)
    total = len(found.int8) + len(found.kept)
    kept = f", kept in FP32: {', '.join(found.kept)}" if found.kept else ""
    narrator.tell(f"{model}: {len(found.int8)} of {total} layers in INT8{kept}")
    return quantize(graph, ranges, found.int8), found


def _run(
    model: ModelName,
    data: bytes,
    precision: FilePrecision,
    pictures: NDArray[np.uint8],
    classes: int,
) -> Outputs:
    engine = reference_engine(model, data, precision, pictures.shape[1], classes)
    return infer_all(engine, pictures, BATCH, Narrator(), "")
