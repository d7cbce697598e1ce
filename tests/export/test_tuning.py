from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from dtir_export.exporting import _tuned
from dtir_export.fallback import error
from dtir_export.int8 import Int8Graphs, int8_graphs
from dtir_export.parity import Thresholds
from dtir_export.progress import Narrator
from dtir_export.quantization import calibrate
from dtir_export.tuning import tune
from dtir_train.channel import from_bytes
from dtir_train.checkpoint import TrainedNetworks
from dtir_train.datasets.generated import generated_secret


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return generated_secret(16, 32, 5)[0]


@pytest.fixture(scope="module")
def ranges(graphs: dict[str, bytes], photos: np.ndarray) -> dict[str, float]:
    """Of the transfer generator's layers, by the names of its modules."""
    graph = onnx.load_from_string(graphs["transfer"])
    found = calibrate(graph, photos, Narrator(), "")
    weighted = [node for node in graph.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    return {
        node.input[1].removeprefix("network.").removesuffix(".weight"): found[node.input[0]]
        for node in weighted
    }


def test_what_it_gives_is_a_network_like_the_first(
    networks: TrainedNetworks, ranges: dict[str, float], photos: np.ndarray
) -> None:
    before = copy.deepcopy(networks.transfer.state_dict())
    tuned = tune(networks.transfer, ranges, photos, Narrator(), "", steps=2)
    after = tuned.state_dict()
    assert [*after] == [*before]
    assert any(not torch.equal(after[name], before[name]) for name in before)
    for name, value in networks.transfer.state_dict().items():
        assert torch.equal(value, before[name])
    # Nothing is rounded any more: pictures a hundredth of a level apart are told apart.
    batch = from_bytes(torch.from_numpy(photos[:1]).permute(0, 3, 1, 2))
    with torch.no_grad():
        assert not torch.equal(tuned(batch), tuned(batch + 1e-4))


def test_batch_norms_keep_their_statistics(networks: TrainedNetworks, photos: np.ndarray) -> None:
    tuned = tune(networks.recognizer, {"conv1": 1.0}, photos, Narrator(), "", steps=2)
    for name, value in networks.recognizer.state_dict().items():
        if "running" in name or "num_batches" in name:
            assert torch.equal(tuned.state_dict()[name], value)


class Tuner:
    """Notes what it is asked for."""

    def __init__(self, answer: Callable[..., bytes]) -> None:
        self.asked: list[str] = []
        self.answer = answer

    def __call__(self, model: str, ranges: dict[str, float], pictures: np.ndarray) -> bytes:
        self.asked.append(model)
        return self.answer(model, ranges, pictures)


def quantised(
    graphs: dict[str, bytes], photos: np.ndarray, aim: Thresholds, tuner: Tuner
) -> Int8Graphs:
    only = {"transfer": graphs["transfer"]}
    return int8_graphs(only, photos, photos, 3, aim, Narrator(), tuner)


def aim(psnr: float) -> Thresholds:
    return Thresholds(psnr, psnr, 255, 1.0, 0.99)


def test_not_asked_for_where_calibration_is_enough(
    graphs: dict[str, bytes], photos: np.ndarray
) -> None:
    tuner = Tuner(lambda *_: b"")
    made = quantised(graphs, photos, aim(10), tuner)
    assert (tuner.asked, made.tuned) == ([], ())


@pytest.fixture(scope="module")
def missed(graphs: dict[str, bytes], photos: np.ndarray) -> float:
    """A PSNR that calibration alone misses by little: with some layers in FP32 it is reached."""
    from dtir_export.fallback import MARGIN_DB
    from dtir_export.onnx_graph import read_graph
    from dtir_export.quantization import layers, quantize

    graph = read_graph(graphs["transfer"], "transfer.onnx")
    data = quantize(graph, calibrate(graph, photos, Narrator(), ""), layers(graph))
    square = error(run(graphs["transfer"], photos), run(data, photos))
    return float(10 * np.log10(255**2 / square)) - MARGIN_DB + 0.2


def run(data: bytes, photos: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: photos})[0]


def test_the_network_is_tuned_where_calibration_alone_misses_the_gate(
    networks: TrainedNetworks, graphs: dict[str, bytes], photos: np.ndarray, missed: float
) -> None:
    def answer(*arguments: object) -> bytes:
        return _tuned(networks, Narrator(), *arguments)

    tuner = Tuner(answer)
    made = quantised(graphs, photos, aim(missed), tuner)
    assert tuner.asked == ["transfer"]
    assert made.tuned == ("transfer",)
    # It learned what the original gives, not something else.
    expected = run(graphs["transfer"], photos)
    found = error(expected, run(made.graphs["transfer"], photos))
    assert found < 255**2 / 10 ** (missed / 10)


def test_a_tuned_network_that_is_no_better_is_not_taken(
    graphs: dict[str, bytes], photos: np.ndarray, missed: float
) -> None:
    tuner = Tuner(lambda model, *_: graphs[model])
    made = quantised(graphs, photos, aim(missed), tuner)
    assert (tuner.asked, made.tuned) == (["transfer"], ())
    assert made.layers["transfer"].kept
