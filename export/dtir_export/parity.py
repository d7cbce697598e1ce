"""The parity gate: PyTorch against the exported graphs, on real pictures, in the SDK's engines.

Two engines are compared with PyTorch: the reference, ONNX Runtime in FP32 on the CPU, which shows
whether the graph is right, and the one that the SDK would pick here, as users run it, which
shows what bf16 costs. Every graph gets PyTorch's own bytes as its input, so that each is judged
by itself; the chain of transfer and recognizer is judged too where both are exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dtir_export.graphs import signature
from dtir_export.pictures import GatePictures
from dtir_export.progress import Narrator
from dtir_sdk.bundle import ModelName
from dtir_sdk.engines import Engine, Graph, choose, load
from dtir_sdk.errors import ConfigurationError, DtirError
from dtir_train.channel import from_bytes, to_bytes
from dtir_train.checkpoint import TrainedNetworks
from dtir_train.networks import Generator

# Where not one byte differs; one byte in 10 million that is off by one gives 118 dB.
PSNR_CEILING = 120.0

_BATCH = 8

Pictures: TypeAlias = NDArray[np.uint8]
Probabilities: TypeAlias = NDArray[np.float32]


class ParityError(DtirError):
    """An exported graph that does not do what the trained network does."""


@dataclass(frozen=True)
class Thresholds:
    """What one engine must reach.

    Attributes:
        cartoon_psnr: least PSNR of the cartoons over all pictures, in dB.
        restored_psnr: least PSNR of the restored pictures, in dB.
        byte_difference: largest difference of any byte of any picture.
        probability_difference: largest difference of any probability.
        label_agreement: least share of equal labels.
    """

    cartoon_psnr: float
    restored_psnr: float
    byte_difference: int
    probability_difference: float
    label_agreement: float

    def __post_init__(self) -> None:
        if not 0 <= self.label_agreement <= 1:
            raise ConfigurationError(
                f"label_agreement is {self.label_agreement}: it must be from 0 to 1"
            )


@dataclass(frozen=True)
class Gate:
    """What the two engines must reach.

    Attributes:
        reference: ONNX Runtime in FP32.
        deployed: the SDK's choice at its own precision; in bf16 single bytes and probabilities
            may be far off, so those are reported and not judged.
    """

    reference: Thresholds = Thresholds(
        cartoon_psnr=60.0,
        restored_psnr=60.0,
        byte_difference=2,
        probability_difference=1e-3,
        label_agreement=1.0,
    )
    deployed: Thresholds = Thresholds(
        cartoon_psnr=40.0,
        restored_psnr=35.0,
        byte_difference=255,
        probability_difference=1.0,
        label_agreement=0.995,
    )


@dataclass(frozen=True)
class PictureParity:
    """Two sets of pictures compared.

    Attributes:
        psnr: in dB over all of them; 120 where they are equal.
        worst_psnr: of the worst picture.
        mean_difference: mean absolute difference of the bytes.
        max_difference: largest absolute difference of a byte.
    """

    psnr: float
    worst_psnr: float
    mean_difference: float
    max_difference: int


@dataclass(frozen=True)
class LabelParity:
    """Two sets of probabilities compared.

    Attributes:
        label_agreement: share of pictures with the same likeliest label.
        mean_difference: mean absolute difference of the probabilities.
        max_difference: largest absolute difference of a probability.
    """

    label_agreement: float
    mean_difference: float
    max_difference: float


@dataclass(frozen=True)
class EngineParity:
    """One engine against PyTorch; None where the graph was not exported.

    Attributes:
        engine: which engine, on what, in which precision.
        transfer: cartoons.
        restorer: restored pictures.
        recognizer: probabilities, of the same cartoons.
        chain: probabilities, of the engine's own cartoons.
    """

    engine: str
    transfer: PictureParity | None
    restorer: PictureParity | None
    recognizer: LabelParity | None
    chain: LabelParity | None


@dataclass(frozen=True)
class Outputs:
    """What the networks made of the gate's pictures; None where a graph was not exported.

    Attributes:
        cartoons: uint8 [N, S, S, 3].
        restored: uint8 [N, S, S, 3].
        probabilities: float32 [N, K], of PyTorch's cartoons.
        chain: float32 [N, K], of the same engine's cartoons.
    """

    cartoons: Pictures | None
    restored: Pictures | None
    probabilities: Probabilities | None
    chain: Probabilities | None


@dataclass(frozen=True)
class ParityReport:
    """The gate's findings.

    Attributes:
        pictures: how many pictures were compared.
        origins: what they were taken from.
        reference: ONNX Runtime in FP32.
        deployed: the SDK's choice.
        gate: what had to be reached.
    """

    pictures: int
    origins: tuple[str, ...]
    reference: EngineParity
    deployed: EngineParity
    gate: Gate

    def failures(self) -> tuple[str, ...]:
        """Says, a short text each, what was not reached; empty where the gate is passed."""
        return (
            *_failures("onnxruntime", self.reference, self.gate.reference),
            *_failures("the SDK's engine", self.deployed, self.gate.deployed),
        )

    def check(self) -> None:
        """Lets the export go on, or does not.

        Raises:
            ParityError: something was not reached; the text says what.
        """
        failures = self.failures()
        if failures:
            raise ParityError(
                f"the exported graphs differ from PyTorch on {self.pictures} pictures, nothing "
                f"was written: {'; '.join(failures)}"
            )

    def summary(self) -> tuple[str, ...]:
        """Says in a line for each engine how near it came to PyTorch."""
        engines = (("reference", self.reference), ("deployed", self.deployed))
        return tuple(
            f"parity on {self.pictures} pictures, {role} engine ({parity.engine}): "
            f"{', '.join(_figures(parity))}"
            for role, parity in engines
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON-ready values."""
        return {"passed": not self.failures(), **asdict(self)}


@dataclass(frozen=True)
class Comparison:
    """A report and the pictures behind it.

    Attributes:
        report: the figures.
        photos: uint8 [N, S, S, 3], RGB.
        torch: what PyTorch made of them; all four are there.
        deployed: what the SDK's engine made of them.
    """

    report: ParityReport
    photos: Pictures
    torch: Outputs
    deployed: Outputs


def compare(
    networks: TrainedNetworks,
    graphs: Mapping[ModelName, bytes],
    photos: GatePictures,
    gate: Gate,
    narrator: Narrator,
) -> Comparison:
    """Compares exported graphs with the networks that they were made from.

    Args:
        networks: the trained networks.
        graphs: ONNX files, one or more.
        photos: real pictures.
        gate: what is to be reached; `report.check()` of the result judges by it.
        narrator: is told the progress.

    Raises:
        BundleError: a graph has the wrong inputs or outputs.
        EngineError: an engine is missing or cannot run a graph.
    """
    expected = _in_torch(networks, photos.pictures, narrator)
    reference, reference_name = _in_engine(
        networks, graphs, photos.pictures, expected, "reference", narrator
    )
    deployed, deployed_name = _in_engine(
        networks, graphs, photos.pictures, expected, "deployed", narrator
    )
    report = ParityReport(
        pictures=len(photos.pictures),
        origins=photos.origins,
        reference=_parity(reference_name, expected, reference),
        deployed=_parity(deployed_name, expected, deployed),
        gate=gate,
    )
    return Comparison(report, photos.pictures, expected, deployed)


def picture_parity(expected: Pictures, found: Pictures) -> PictureParity:
    """Compares two sets of pictures, each uint8 [N, S, S, 3]."""
    difference = np.abs(expected.astype(np.int16) - found)
    squares = np.square(difference, dtype=np.float64).mean(axis=(1, 2, 3))
    return PictureParity(
        psnr=_psnr(float(squares.mean())),
        worst_psnr=_psnr(float(squares.max())),
        mean_difference=float(difference.mean()),
        max_difference=int(difference.max()),
    )


def label_parity(expected: Probabilities, found: Probabilities) -> LabelParity:
    """Compares two sets of probabilities, each float32 [N, K]."""
    difference = np.abs(expected - found)
    return LabelParity(
        label_agreement=float((expected.argmax(axis=1) == found.argmax(axis=1)).mean()),
        mean_difference=float(difference.mean()),
        max_difference=float(difference.max()),
    )


def _psnr(square: float) -> float:
    return PSNR_CEILING if square == 0 else min(PSNR_CEILING, 10 * float(np.log10(255**2 / square)))


def _in_torch(networks: TrainedNetworks, photos: Pictures, narrator: Narrator) -> Outputs:
    def generated(network: Generator, batch: torch.Tensor) -> torch.Tensor:
        return to_bytes(network(from_bytes(batch)))

    cartoons, restored, probabilities = [], [], []
    starts = range(0, len(photos), _BATCH)
    with torch.inference_mode():
        for start in narrator.track(starts, "parity gate: PyTorch", len(starts)):
            batch = torch.from_numpy(photos[start : start + _BATCH]).permute(0, 3, 1, 2)
            cartoon = generated(networks.transfer, batch)
            cartoons.append(cartoon)
            restored.append(generated(networks.restorer, cartoon))
            probabilities.append(torch.softmax(networks.recognizer(from_bytes(cartoon)), 1))
    read = torch.cat(probabilities).numpy()
    return Outputs(_last(cartoons), _last(restored), read, read)


def _last(batches: list[torch.Tensor]) -> Pictures:
    """Joins batches [n, 3, S, S] into an array [N, S, S, 3]."""
    joined: Pictures = torch.cat(batches).permute(0, 2, 3, 1).contiguous().numpy()
    return joined


def _in_engine(
    networks: TrainedNetworks,
    graphs: Mapping[ModelName, bytes],
    photos: Pictures,
    expected: Outputs,
    which: Literal["reference", "deployed"],
    narrator: Narrator,
) -> tuple[Outputs, str]:
    """Runs the graphs in one engine; returns what they made and the engine's description."""
    names: dict[str, None] = {}

    def run(model: ModelName, pictures: Pictures | None, again: str = "") -> NDArray[Any] | None:
        if model not in graphs or pictures is None:
            return None
        engine = _engine(networks, model, graphs[model], which)
        names[f"{engine.info.engine} on {engine.info.device}, {engine.info.precision}"] = None
        # One picture at a time is what a camera runs; the reference shows that N is free.
        size = 1 if which == "deployed" else _BATCH
        starts = range(0, len(pictures), size)
        text = f"parity gate: {model}{again} in {engine.info.engine} ({engine.info.precision})"
        try:
            return np.concatenate(
                [
                    engine.infer(np.ascontiguousarray(pictures[start : start + size]))
                    for start in narrator.track(starts, text, len(starts))
                ]
            )
        finally:
            engine.close()

    cartoons = run("transfer", photos)
    outputs = Outputs(
        cartoons=cartoons,
        restored=run("restorer", expected.cartoons),
        probabilities=run("recognizer", expected.cartoons),
        chain=run("recognizer", cartoons, " after transfer"),
    )
    return outputs, "; ".join(names)


def _engine(
    networks: TrainedNetworks,
    model: ModelName,
    data: bytes,
    which: Literal["reference", "deployed"],
) -> Engine:
    size, classes = networks.configuration.networks.image_size, len(networks.labels)
    graph = Graph(data, f"{model}.onnx", "fp32", signature(model, size, classes))
    if which == "reference":
        return load(graph, choose("onnxruntime", "cpu"), "f32")
    return load(graph, choose())


def _parity(engine: str, expected: Outputs, found: Outputs) -> EngineParity:
    def pictures(of: Pictures | None, by: Pictures | None) -> PictureParity | None:
        return None if of is None or by is None else picture_parity(of, by)

    def labels(of: Probabilities | None, by: Probabilities | None) -> LabelParity | None:
        return None if of is None or by is None else label_parity(of, by)

    return EngineParity(
        engine=engine,
        transfer=pictures(expected.cartoons, found.cartoons),
        restorer=pictures(expected.restored, found.restored),
        recognizer=labels(expected.probabilities, found.probabilities),
        chain=labels(expected.chain, found.chain),
    )


def _failures(engine: str, parity: EngineParity, least: Thresholds) -> list[str]:
    failures = []
    for name, pictures, psnr in (
        ("cartoon", parity.transfer, least.cartoon_psnr),
        ("restored picture", parity.restorer, least.restored_psnr),
    ):
        if pictures is not None and pictures.psnr < psnr:
            failures.append(f"{engine}: {name} PSNR {pictures.psnr:.1f} dB, not {psnr:.1f}")
        if pictures is not None and pictures.max_difference > least.byte_difference:
            failures.append(
                f"{engine}: {name} off by {pictures.max_difference} of 255, "
                f"not at most {least.byte_difference}"
            )
    if (
        parity.recognizer is not None
        and parity.recognizer.max_difference > least.probability_difference
    ):
        failures.append(
            f"{engine}: probabilities off by {parity.recognizer.max_difference:.2g}, "
            f"not at most {least.probability_difference:.2g}"
        )
    for name, labels in (("recognizer", parity.recognizer), ("chain", parity.chain)):
        if labels is not None and labels.label_agreement < least.label_agreement:
            failures.append(
                f"{engine}: {name} gives the same label on {labels.label_agreement:.2%}, "
                f"not {least.label_agreement:.2%}"
            )
    return failures


def _figures(parity: EngineParity) -> list[str]:
    figures = []
    for name, pictures in (("cartoon", parity.transfer), ("restored", parity.restorer)):
        if pictures is not None:
            figures.append(
                f"{name} PSNR {pictures.psnr:.1f} dB (worst {pictures.worst_psnr:.1f}, "
                f"largest difference {pictures.max_difference})"
            )
    for name, labels in (("recognizer", parity.recognizer), ("chain", parity.chain)):
        if labels is not None:
            figures.append(
                f"{name} labels {labels.label_agreement:.1%} equal "
                f"(largest difference {labels.max_difference:.1g})"
            )
    return figures
