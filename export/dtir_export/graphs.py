"""The graphs that an application runs: bytes in, bytes or probabilities out.

Scaling, layout, rounding and softmax are inside, and are the training's own functions, so that
nobody can get the pre-processing wrong.
"""

from __future__ import annotations

import copy
import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import onnx
import torch
from torch import Tensor, nn

import dtir_sdk
from dtir_export.half import HalfNetwork
from dtir_sdk.engines import Signature
from dtir_sdk.engines import Tensor as Port
from dtir_sdk.errors import ConfigurationError, DtirError
from dtir_sdk.files import reason
from dtir_sdk.manifest import ModelName
from dtir_train.channel import from_bytes, to_bytes
from dtir_train.checkpoint import TrainedNetworks
from dtir_train.networks import Generator, Recognizer

OPSET = 18

Input = Literal["image", "transferred"]
FloatPrecision = Literal["fp32", "fp16"]

_PURPOSE: Mapping[ModelName, str] = {
    "transfer": "Turns a private picture into one of the target domain.",
    "recognizer": "Reads the private picture's label from the transferred picture.",
    "restorer": "Gives the private picture back from the transferred picture.",
}


class GeneratorGraph(nn.Module):
    """A generator from bytes to bytes.

    Args:
        network: the trained generator; a copy of it is taken.
    """

    def __init__(self, network: Generator) -> None:
        super().__init__()
        self.network: nn.Module = without_idle_biases(network)

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps uint8 ``[N, S, S, 3]``, RGB, to uint8 of the same shape."""
        # TensorRT takes bytes into a cast and out of one, and nothing else.
        output: Tensor = self.network(from_bytes(pictures).permute(0, 3, 1, 2))
        return to_bytes(output.permute(0, 2, 3, 1))


class RecognizerGraph(nn.Module):
    """A recognizer from bytes to probabilities.

    Args:
        network: the trained recognizer; a copy of it is taken.
    """

    def __init__(self, network: Recognizer) -> None:
        super().__init__()
        self.network: nn.Module = copy.deepcopy(network)
        # Adaptive pooling exports as shape arithmetic, which engines fold late or not at all.
        self.network.register_module("avgpool", _SpatialMean())

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps uint8 ``[N, S, S, 3]``, RGB, to float32 ``[N, K]`` that add up to 1."""
        logits = self.network(from_bytes(pictures).permute(0, 3, 1, 2))
        return torch.softmax(logits, dim=1)


class _SpatialMean(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))


def without_idle_biases(network: Generator) -> Generator:
    """Copies a generator without the biases that an InstanceNorm takes out again.

    Engines cannot fuse them away themselves: this is a tenth of the time in OpenVINO in bf16 at
    16 channels.
    """
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for layer, following in itertools.pairwise(module):
                if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and isinstance(
                    following, nn.InstanceNorm2d
                ):
                    layer.bias = None
    return network


def signature(model: ModelName, size: int, classes: int) -> Signature:
    """Returns the inputs and outputs of a graph.

    Args:
        model: which graph.
        size: side S of the pictures.
        classes: number K of labels.
    """
    pictures = (None, size, size, 3)
    if model == "recognizer":
        output = Port("probabilities", "float32", (None, classes))
    else:
        output = Port("transferred" if model == "transfer" else "restored", "uint8", pictures)
    return Signature((Port(_input_name(model), "uint8", pictures),), (output,))


def export_graph(
    model: ModelName, networks: TrainedNetworks, precision: FloatPrecision = "fp32"
) -> bytes:
    """Exports one network.

    Args:
        model: which one.
        networks: the trained networks.
        precision: `fp16` stores and computes in FP16, but for scaling, InstanceNorm, tanh and
            softmax, which stay in FP32, and takes and gives the same as `fp32`.

    Returns:
        An ONNX file without external data, opset 18, of free N, checked.

    Raises:
        ConfigurationError: the network's weights are not finite numbers, or not in `precision`.
        DtirError: the exporter failed.
    """
    network = getattr(networks, model)
    broken = [name for name, value in network.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ConfigurationError(
            f"the weights of the {model} are not all finite numbers (the first is {broken[0]}): "
            "the training diverged, use an earlier checkpoint"
        )
    graph = RecognizerGraph(network) if model == "recognizer" else GeneratorGraph(network)
    if precision == "fp16":
        graph.network = HalfNetwork(graph.network, model)
    size = networks.configuration.networks.image_size
    ports = signature(model, size, len(networks.labels))
    # InstanceNorm2d exports as InstanceNormalization. OpenVINO makes one fused MVN of it, as it
    # does of ReduceMean-Sub-Mul-ReduceMean-Add-Sqrt-Div (the same time, 140 nodes more); with
    # GroupNorm, or with a reciprocal square root, it takes 1.5 times as long.
    try:
        with _quiet():
            program = torch.onnx.export(
                graph.eval(),
                (torch.zeros((2, size, size, 3), dtype=torch.uint8),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[ports.inputs[0].name],
                output_names=[ports.outputs[0].name],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                external_data=False,
                verbose=False,
            )
        assert program is not None
        exported = program.model_proto
        _describe(exported, model)
        onnx.checker.check_model(exported, full_check=True)
    except (
        RuntimeError,
        ValueError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise DtirError(f"{model}.onnx could not be exported: {reason(error)}") from error
    data: bytes = exported.SerializeToString()
    return data


def export_graphs(
    networks: TrainedNetworks,
    models: Iterable[ModelName],
    precision: FloatPrecision = "fp32",
    tell: Callable[[str], None] = lambda _: None,
) -> dict[ModelName, bytes]:
    """Exports several networks; arguments and errors as `export_graph`.

    Args:
        networks: the trained networks.
        models: which ones.
        precision: as `export_graph`.
        tell: is told what is being done.
    """
    graphs = {}
    for model in models:
        tell(f"exporting {model}.onnx ({precision})")
        graphs[model] = export_graph(model, networks, precision)
    return graphs


def _input_name(model: ModelName) -> Input:
    return "image" if model == "transfer" else "transferred"


def _describe(exported: onnx.ModelProto, model: ModelName) -> None:
    """Says who made the graph, and takes out the exporter's notes: they hold file paths."""
    exported.producer_name = "dtir"
    exported.producer_version = dtir_sdk.__version__
    exported.doc_string = _PURPOSE[model]
    exported.graph.name = model
    exported.graph.doc_string = ""
    del exported.metadata_props[:]
    del exported.graph.metadata_props[:]
    del exported.graph.value_info[:]
    noted: list[Any] = [
        *exported.graph.node,
        *exported.graph.input,
        *exported.graph.output,
        *exported.graph.initializer,
    ]
    for part in noted:
        part.doc_string = ""
        del part.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's remarks, about packages that are not needed, from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
