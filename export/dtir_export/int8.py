"""FP32 graphs become INT8 graphs: calibrated, and layer by layer only where the gate allows it.

Where calibration alone misses the gate, the network is fine-tuned first, if there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from dtir_export.fallback import Aim, Layers, Outputs, choose_layers, error
from dtir_export.onnx_graph import read_graph
from dtir_export.original import BATCH, infer_all, reference_engine
from dtir_export.parity import Thresholds
from dtir_export.progress import Narrator
from dtir_export.quantization import calibrate, layers, quantize
from dtir_sdk.manifest import FilePrecision, ModelName

# Calibration pictures on which layers are chosen, at most; all of them set the ranges. Of fewer
# than 200 not one label could differ within the margin.
_CHOSEN_ON: Mapping[ModelName, int] = {"transfer": 64, "restorer": 64, "recognizer": 256}


# Fine-tunes a network: which one, the range of each layer's inputs by the name of its weights, and
# pictures; gives its FP32 graph anew.
Tune: TypeAlias = Callable[[ModelName, Mapping[str, float], NDArray[np.uint8]], bytes]


@dataclass(frozen=True)
class Int8Graphs:
    """What became of FP32 graphs.

    Attributes:
        graphs: the ONNX files.
        layers: of each graph, the layers in INT8 and those kept in FP32.
        tuned: graphs whose networks were fine-tuned.
    """

    graphs: Mapping[ModelName, bytes]
    layers: Mapping[ModelName, Layers]
    tuned: tuple[ModelName, ...]


def int8_graphs(
    graphs: Mapping[ModelName, bytes],
    photos: NDArray[np.uint8],
    cartoons: NDArray[np.uint8],
    classes: int,
    aim: Thresholds,
    narrator: Narrator,
    tune: Tune | None = None,
) -> Int8Graphs:
    """Quantises graphs.

    Args:
        graphs: FP32 ONNX files.
        photos: uint8 [N, S, S, 3], RGB: private pictures that the gate does not judge on.
        cartoons: uint8 [N, S, S, 3], RGB: what the transfer generator makes of them.
        classes: number K of labels.
        aim: what the graphs must reach against their FP32 selves.
        narrator: is told the progress.
        tune: fine-tunes a network where calibration alone misses the aim; None where there are
            graphs only.

    Raises:
        BundleError: a graph is truncated, of another opset, or holds what is not converted.
        ConfigurationError: the aim is out of reach in INT8.
        EngineError: ONNX Runtime is missing or cannot run a graph.
    """
    done: dict[ModelName, bytes] = {}
    found: dict[ModelName, Layers] = {}
    tuned: list[ModelName] = []
    for model, data in graphs.items():
        psnr = aim.restored_psnr if model == "restorer" else aim.cartoon_psnr
        pictures = photos if model == "transfer" else cartoons
        work = _Work(model, data, pictures, classes, Aim(psnr, aim.label_agreement), narrator)
        form = work.calibrated(data)
        better = work.tuned(form, tune) if tune is not None else None
        if better is not None:
            tuned.append(model)
        done[model], found[model] = work.quantized(better or form)
    return Int8Graphs(done, found, tuple(tuned))


@dataclass(frozen=True)
class _Form:
    """A graph in FP32, and its ranges."""

    graph: onnx.ModelProto
    ranges: Mapping[str, float]


@dataclass(frozen=True)
class _Work:
    """One graph that is to be quantised, and what for."""

    model: ModelName
    data: bytes
    pictures: NDArray[np.uint8]
    classes: int
    aim: Aim
    narrator: Narrator

    def calibrated(self, data: bytes) -> _Form:
        graph = read_graph(data, f"{self.model}.onnx")
        text = f"calibrating {self.model} on {len(self.pictures)} pictures"
        return _Form(graph, calibrate(graph, self.pictures, self.narrator, text))

    def tuned(self, form: _Form, tune: Tune) -> _Form | None:
        """The graph of the fine-tuned network; None where it is not needed, or no better."""
        expected, found = self.outputs(form, ()), self.outputs(form, layers(form.graph))
        if self.aim.reached(expected, found):
            return None
        ranges = {
            node.input[1]: form.ranges[node.input[0]]
            for node in form.graph.graph.node
            if node.name in layers(form.graph)
        }
        better = self.calibrated(tune(self.model, ranges, self.pictures))
        before = error(expected, found)
        after = error(expected, self.outputs(better, layers(better.graph)))
        gain = f"{self.model}: fine-tuning brings its error in INT8 to {after / before:.0%}"
        self.narrator.tell(gain if after < before else f"{gain}: it is left as it was")
        return better if after < before else None

    def quantized(self, form: _Form) -> tuple[bytes, Layers]:
        run = partial(self.outputs, form)
        found = choose_layers(self.model, layers(form.graph), run, self.aim, self.narrator)
        total = len(found.int8) + len(found.kept)
        kept = f", kept in FP32: {', '.join(found.kept)}" if found.kept else ""
        self.narrator.tell(f"{self.model}: {len(found.int8)} of {total} layers in INT8{kept}")
        return quantize(form.graph, form.ranges, found.int8), found

    def outputs(self, form: _Form, names: Collection[str]) -> Outputs:
        """What comes out with these layers in INT8; with none of them, of the original."""
        judged = self.pictures[:: math.ceil(len(self.pictures) / _CHOSEN_ON[self.model])]
        data = quantize(form.graph, form.ranges, names) if names else self.data
        precision: FilePrecision = "int8" if names else "fp32"
        size = self.pictures.shape[1]
        engine = reference_engine(self.model, data, precision, size, self.classes)
        return infer_all(engine, judged, BATCH, Narrator(), "")
