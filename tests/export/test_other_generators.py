"""Generators that are not the paper's, in every precision that they are exported in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dtir_export.graphs import export_graph
from dtir_export.half_graph import half_graphs
from dtir_export.parity import picture_parity
from dtir_export.progress import Narrator
from dtir_export.quantization import calibrate, layers, quantize
from dtir_train.building import build_generator
from dtir_train.channel import from_bytes, to_bytes
from dtir_train.checkpoint import TrainedNetworks, load_trained
from dtir_train.datasets.generated import generated_secret
from dtir_train.unnormalising import take_norms_in

PHOTOS = generated_secret(4, 32, 1)[0]


@pytest.fixture(scope="module", params=["skips", "no norms"])
def networks(make_checkpoint: Callable[..., Path], tmp_path_factory, request) -> TrainedNetworks:
    path = make_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint.safetensors")
    plain = load_trained(path)
    configuration = plain.configuration
    if request.param == "skips":
        sizes = replace(configuration.networks, skip_connections=True)
    else:
        sizes = replace(configuration.networks, normalisation="none")
    transfer = build_generator(sizes).eval().requires_grad_(False)
    transfer.load_state_dict(plain.transfer.state_dict(), strict=False)
    for skip in transfer.skips:
        torch.nn.init.normal_(skip.weight, 0.0, 0.5)
    if request.param == "no norms":
        take_norms_in(transfer, from_bytes(torch.from_numpy(PHOTOS).permute(0, 3, 1, 2)))
    return replace(plain, transfer=transfer, configuration=replace(configuration, networks=sizes))


@pytest.fixture(scope="module")
def graph(networks: TrainedNetworks) -> bytes:
    return export_graph("transfer", networks)


def run(data: bytes, pictures: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pictures})[0]


def test_the_graph_computes_what_training_does(networks: TrainedNetworks, graph: bytes) -> None:
    planes = torch.from_numpy(PHOTOS).permute(0, 3, 1, 2)
    with torch.inference_mode():
        cartoons = to_bytes(networks.transfer(from_bytes(planes)))
    expected = cartoons.permute(0, 2, 3, 1).numpy()
    assert np.abs(run(graph, PHOTOS).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("make", ["checkpoint", "graph"])
def test_in_half_precision(networks: TrainedNetworks, graph: bytes, make: str) -> None:
    if make == "checkpoint":
        half = export_graph("transfer", networks, "fp16")
    else:
        half = half_graphs({"transfer": graph})["transfer"]
    assert picture_parity(run(graph, PHOTOS), run(half, PHOTOS)).psnr > 45


def test_in_eight_bits(networks: TrainedNetworks, graph: bytes) -> None:
    model = onnx.load_from_string(graph)
    chosen = layers(model)
    # Encoder, residual block and decoder, and the skip connections where there are any.
    assert len(chosen) == 3 + 2 + 3 + len(networks.transfer.skips)
    data = quantize(model, calibrate(model, PHOTOS, Narrator(), ""), chosen)
    assert picture_parity(run(graph, PHOTOS), run(data, PHOTOS)).psnr > 32
