from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest

from dtir_export.graphs import export_graph
from dtir_export.original import GraphOriginal, TrainedOriginal
from dtir_export.parity import (
    GATES,
    PSNR_CEILING,
    Comparison,
    ParityError,
    compare,
    label_parity,
    picture_parity,
)
from dtir_export.pictures import GatePictures
from dtir_export.progress import Narrator
from dtir_sdk.errors import BundleError, ConfigurationError
from dtir_train.checkpoint import TrainedNetworks
from dtir_train.datasets.generated import generated_secret


@pytest.fixture(scope="module")
def photos() -> GatePictures:
    return GatePictures(generated_secret(11, 32, 3)[0], ("generated",))


@pytest.fixture(scope="module")
def comparison(
    networks: TrainedNetworks, graphs: dict[str, bytes], photos: GatePictures
) -> Comparison:
    return compare(TrainedOriginal(networks), graphs, photos, Narrator())


def test_passes(comparison: Comparison) -> None:
    report = comparison.report
    report.check()
    assert report.arithmetic is None
    assert report.pictures == 11
    assert report.reference.engine == "onnxruntime on cpu, fp32"
    assert report.reference.transfer.psnr >= 60
    assert report.reference.transfer.max_difference <= 2
    assert report.reference.recognizer.max_difference <= 1e-3
    assert report.deployed.chain.label_agreement == 1
    assert comparison.deployed.cartoons.shape == (11, 32, 32, 3)
    assert len(report.summary()) == 2


def test_report_is_json(comparison: Comparison) -> None:
    document = json.loads(json.dumps(comparison.report.to_json(), allow_nan=False))
    assert document["passed"] is True
    assert document["gate"]["reference"]["cartoon_psnr"] == 60
    assert document["reference"]["transfer"]["psnr"] > 60


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("transfer", "cartoon PSNR"),
        ("restorer", "restored picture PSNR"),
        ("recognizer", "probabilities off by"),
    ],
)
def test_perturbed_weight_fails(
    model: str,
    text: str,
    networks: TrainedNetworks,
    graphs: dict[str, bytes],
    photos: GatePictures,
    perturb: Callable[[bytes], bytes],
) -> None:
    changed = {model: perturb(graphs[model])}
    report = compare(TrainedOriginal(networks), changed, photos, Narrator()).report
    with pytest.raises(ParityError, match=f"nothing was written: onnxruntime: {text}"):
        report.check()
    assert report.to_json()["passed"] is False


@pytest.mark.parametrize(
    ("flags", "precision", "doubted"),
    [((), "int8", True), (("avx_vnni",), "int8", False), ((), "fp32", False)],
)
def test_int8_that_fails_where_its_sums_may_overflow(
    networks: TrainedNetworks,
    graphs: dict[str, bytes],
    photos: GatePictures,
    perturb: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    precision: str,
    doubted: bool,
) -> None:
    changed = {"recognizer": perturb(graphs["recognizer"])}
    report = compare(TrainedOriginal(networks), changed, photos, Narrator()).report
    strict = dataclasses.replace(report, precision=precision)
    monkeypatch.setattr("dtir_sdk.engines.openvino.processor_flags", lambda: frozenset(flags))
    with pytest.raises(ParityError) as raised:
        strict.check()
    assert ("INT8 sums may overflow" in str(raised.value)) == doubted


def test_only_what_was_exported(
    networks: TrainedNetworks, graphs: dict[str, bytes], photos: GatePictures
) -> None:
    only = {"recognizer": graphs["recognizer"]}
    report = compare(TrainedOriginal(networks), only, photos, Narrator()).report
    assert report.reference.transfer is None
    assert report.reference.chain is None
    assert report.reference.recognizer is not None
    report.check()


def test_label_that_differs(comparison: Comparison) -> None:
    parity = dataclasses.replace(comparison.report.deployed.chain, label_agreement=0.99)
    deployed = dataclasses.replace(comparison.report.deployed, chain=parity)
    report = dataclasses.replace(comparison.report, deployed=deployed)
    with pytest.raises(ParityError, match=r"chain gives the same label on 99.00%, not 99.50%"):
        report.check()


def test_a_byte_that_is_far_off(comparison: Comparison) -> None:
    report = comparison.report
    parity = dataclasses.replace(report.reference.transfer, max_difference=3)
    reference = dataclasses.replace(report.reference, transfer=parity)
    with pytest.raises(ParityError, match=r"onnxruntime: cartoon off by 3 of 255, not at most 2"):
        dataclasses.replace(report, reference=reference).check()


@pytest.mark.parametrize(("psnr", "passes"), [(35.5, True), (34.5, False)])
def test_restored_pictures_have_a_threshold_of_their_own(
    comparison: Comparison, psnr: float, passes: bool
) -> None:
    report = comparison.report
    parity = dataclasses.replace(report.deployed.restorer, psnr=psnr)
    changed = dataclasses.replace(
        report, deployed=dataclasses.replace(report.deployed, restorer=parity)
    )
    told = () if passes else ("the SDK's engine: restored picture PSNR 34.5 dB, not 35.0",)
    assert changed.failures() == told


def test_the_arithmetic_of_a_gpu_is_judged_too(comparison: Comparison) -> None:
    report = comparison.report
    parity = dataclasses.replace(report.reference.transfer, psnr=59.0)
    arithmetic = dataclasses.replace(report.reference, transfer=parity)
    changed = dataclasses.replace(report, arithmetic=arithmetic)
    assert changed.failures() == ("fp16 arithmetic: cartoon PSNR 59.0 dB, not 60.0",)


def test_wrong_signature(
    networks: TrainedNetworks, graphs: dict[str, bytes], photos: GatePictures
) -> None:
    with pytest.raises(BundleError, match=r"transfer\.onnx has the signature"):
        changed = {"transfer": graphs["restorer"]}
        compare(TrainedOriginal(networks), changed, photos, Narrator())


def test_picture_parity() -> None:
    expected = np.full((2, 4, 4, 3), 100, np.uint8)
    assert picture_parity(expected, expected).psnr == PSNR_CEILING
    found = expected.copy()
    found[1] -= 5
    parity = picture_parity(expected, found)
    assert parity.max_difference == 5
    assert parity.mean_difference == 2.5
    assert parity.psnr == pytest.approx(10 * np.log10(255**2 / 12.5))
    assert parity.worst_psnr == pytest.approx(10 * np.log10(255**2 / 25))


def test_label_parity() -> None:
    expected = np.array([[0.9, 0.1], [0.4, 0.6]], np.float32)
    found = np.array([[0.9, 0.1], [0.6, 0.4]], np.float32)
    parity = label_parity(expected, found)
    assert parity.label_agreement == 0.5
    assert parity.max_difference == pytest.approx(0.2)
    # The original prefers 0.6 to 0.4, and the other way round it was found.
    assert parity.narrowness == pytest.approx(0.2)
    assert label_parity(expected, expected).narrowness == 0
    sure = np.array([[0.9, 0.1]], np.float32)
    assert label_parity(sure, sure[:, ::-1]).narrowness == pytest.approx(0.8)


def test_labels_that_are_near_guesses_are_told_as_such(comparison: Comparison) -> None:
    def failure(narrowness: float) -> str:
        parity = dataclasses.replace(
            comparison.report.deployed.chain, label_agreement=0.99, narrowness=narrowness
        )
        deployed = dataclasses.replace(comparison.report.deployed, chain=parity)
        (told,) = dataclasses.replace(comparison.report, deployed=deployed).failures()
        return told

    assert failure(0.5).endswith("not 99.50%")
    assert "it prefers its own by 0.02 at most: near guesses" in failure(0.02)


def test_thresholds_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="label_agreement"):
        dataclasses.replace(GATES["fp32"].reference, label_agreement=99.5)


def test_few_pictures_assure_little() -> None:
    same = np.array([[0.9, 0.1]], np.float32)
    one, many = same, np.repeat(same, 1000, axis=0)
    assert label_parity(one, one).assured_agreement == pytest.approx(1 / (1 + 1.645**2))
    assert 0.997 < label_parity(many, many).assured_agreement < 0.998
    other = many.copy()
    other[:10] = other[:10, ::-1]
    parity = label_parity(many, other)
    assert parity.label_agreement == 0.99
    assert 0.983 < parity.assured_agreement < 0.985


def test_graphs_judged_by_graphs(graphs: dict[str, bytes], photos: GatePictures) -> None:
    report = compare(GraphOriginal(graphs, 32, 3), graphs, photos, Narrator()).report
    report.check()
    assert report.original == "the FP32 graphs"
    assert report.reference.transfer.psnr == PSNR_CEILING
    assert report.reference.recognizer.max_difference == 0


def test_half_precision_passes_its_own_gate(
    networks: TrainedNetworks, half_graphs: dict[str, bytes], photos: GatePictures
) -> None:
    original = TrainedOriginal(networks)
    report = compare(original, half_graphs, photos, Narrator(), precision="fp16").report
    report.check()
    assert report.reference.engine == "onnxruntime on cpu, fp16"
    assert 45 < report.reference.transfer.psnr < PSNR_CEILING
    assert report.arithmetic.engine == "PyTorch on cpu, fp16"
    assert 45 < report.arithmetic.transfer.psnr < PSNR_CEILING
    assert report.arithmetic.chain.label_agreement == 1
    assert len(report.summary()) == 3


@pytest.mark.parametrize(
    ("model", "text"),
    [("transfer", "cartoon PSNR"), ("restorer", "restored picture PSNR")],
)
def test_spoilt_half_precision_fails(
    model: str,
    text: str,
    networks: TrainedNetworks,
    half_graphs: dict[str, bytes],
    photos: GatePictures,
    perturb: Callable[[bytes], bytes],
) -> None:
    changed = {model: perturb(half_graphs[model])}
    original = TrainedOriginal(networks)
    report = compare(original, changed, photos, Narrator(), precision="fp16").report
    with pytest.raises(ParityError, match=rf"fp16 graphs differ.*{text} .* dB, not 45"):
        report.check()


def test_overflow_in_half_precision_fails(networks: TrainedNetworks, photos: GatePictures) -> None:
    # Every weight fits into FP16, and the last convolution's sums do not.
    loud = copy.deepcopy(networks.transfer)
    loud.decoder[2].weight.data.fill_(60000.0)
    loud.decoder[2].weight.data[:, ::2] = -60000.0
    changed = dataclasses.replace(networks, transfer=loud)
    graphs = {"transfer": export_graph("transfer", changed, "fp16")}
    with pytest.raises(ConfigurationError, match=r"transfer leaves FP16's range.*decoder\.2"):
        compare(TrainedOriginal(changed), graphs, photos, Narrator(), precision="fp16")
