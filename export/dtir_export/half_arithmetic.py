"""FP16 as a GPU computes it, in PyTorch: every tensor is rounded to it, and may leave its range.

ONNX Runtime and OpenVINO read FP16 graphs on a CPU and compute them in FP32 or bf16: they show that
the graph is right, not what FP16 does to it.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from dtir_export.graphs import GeneratorGraph, RecognizerGraph
from dtir_export.half import HalfNetwork
from dtir_export.original import BATCH, Outputs, Pictures
from dtir_export.progress import Narrator
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.manifest import ModelName
from dtir_train.checkpoint import TrainedNetworks


def half_outputs(
    networks: TrainedNetworks,
    models: Collection[ModelName],
    photos: Pictures,
    expected: Outputs,
    narrator: Narrator,
) -> Outputs:
    """Runs networks in FP16.

    Args:
        networks: the trained networks.
        models: which ones.
        photos: uint8 [N, S, S, 3], RGB.
        expected: what the networks made of them in FP32: cartoons for the other two.
        narrator: is told the progress.

    Returns:
        What they made in FP16; None for networks not run.

    Raises:
        ConfigurationError: a number leaves FP16's range; the text names the network and layer.
    """

    def run(model: ModelName, pictures: Pictures | None, again: str = "") -> Tensor | None:
        if model not in models or pictures is None:
            return None
        graph = _graph(networks, model)
        starts = range(0, len(pictures), BATCH)
        text = f"parity gate: {model}{again} in PyTorch (fp16)"
        with torch.inference_mode():
            return torch.cat(
                [
                    graph(torch.from_numpy(pictures[start : start + BATCH]))
                    for start in narrator.track(starts, text, len(starts))
                ]
            )

    cartoons = run("transfer", photos)
    drawn = None if cartoons is None else cartoons.numpy()
    restored = run("restorer", expected.cartoons)
    read = run("recognizer", expected.cartoons)
    chain = run("recognizer", drawn, " after transfer")
    return Outputs(
        drawn,
        None if restored is None else restored.numpy(),
        None if read is None else read.numpy(),
        None if chain is None else chain.numpy(),
    )


def _graph(networks: TrainedNetworks, model: ModelName) -> nn.Module:
    network = getattr(networks, model)
    graph = RecognizerGraph(network) if model == "recognizer" else GeneratorGraph(network)
    graph.network = HalfNetwork(graph.network, model)

    def check(layer: str, output: Tensor) -> None:
        if not output.isfinite().all():
            raise ConfigurationError(
                f"the {model} leaves FP16's range on real pictures, first in {layer}: export it in "
                "FP32"
            )

    for name, layer in graph.network.network.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, __, output, name=name: check(name, output))
    return graph.eval()
