"""The parity gate: the original against the exported graphs, on real pictures.

Two engines are compared with the original (PyTorch, or a bundle's FP32 graphs): the reference,
ONNX Runtime on the CPU in the precision that the graphs are stored in, which shows whether they
are right, and the one that the SDK would pick here, as users run it, which shows what bf16
costs. Every graph gets the original's own bytes as its input, so that each is judged by itself;
the chain of transfer and recognizer is judged too where both are exported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dtir_export.graphs import signature
from dtir_export.half_arithmetic import half_outputs
from dtir_export.half_graph import rounding_graphs
from dtir_export.original import (
    BATCH,
    GraphOriginal,
    Original,
    Outputs,
    Pictures,
    Probabilities,
    TrainedOriginal,
    infer_all,
    reference_engine,
)
from dtir_export.pictures import GatePictures
from dtir_export.progress import Narrator
from dtir_sdk.engines import Engine, Graph, choose, load
from dtir_sdk.engines.openvino import has_vnni
from dtir_sdk.errors import ConfigurationError, DtirError, EngineError
from dtir_sdk.manifest import FilePrecision, ModelName

# Where not one byte differs; one byte in 10 million that is off by one gives 118 dB.
PSNR_CEILING = 120.0

# One-sided 95% of the normal distribution.
_NORMAL_95 = 1.645

_LARGEST_BYTE, _LARGEST_PROBABILITY = 255, 1.0


class ParityError(DtirError):
    """An exported graph that does not do what the original does."""


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
        reference: ONNX Runtime, in the precision of the graphs.
        deployed: the SDK's choice at its own precision.
    """

    reference: Thresholds
    deployed: Thresholds


def _judged_by_psnr(psnr: float, restored_psnr: float, label_agreement: float) -> Thresholds:
    """Below FP32, single bytes and probabilities may be far off: reported, and not judged."""
    return Thresholds(psnr, restored_psnr, _LARGEST_BYTE, _LARGEST_PROBABILITY, label_agreement)


# About labels that the original prefers by less, rounding decides.
_NARROW = 0.1
_IN_BF16 = _judged_by_psnr(40.0, 35.0, 0.995)

GATES: Mapping[FilePrecision, Gate] = {
    "fp32": Gate(Thresholds(60.0, 60.0, 2, 1e-3, 1.0), _IN_BF16),
    "fp16": Gate(_judged_by_psnr(45.0, 45.0, 0.999), _IN_BF16),
    "int8": Gate(_judged_by_psnr(32.0, 32.0, 0.99), _judged_by_psnr(32.0, 32.0, 0.99)),
}


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
        assured_agreement: what the share is at least, with 95% confidence, over all pictures
            like these (Wilson's bound): few pictures prove little.
        mean_difference: mean absolute difference of the probabilities.
        max_difference: largest absolute difference of a probability.
        narrowness: of the pictures with another label, by how much the original prefers its own
            to the next at most; 0 where there are none.
    """

    label_agreement: float
    assured_agreement: float
    mean_difference: float
    max_difference: float
    narrowness: float


@dataclass(frozen=True)
class EngineParity:
    """One engine against the original; None where the graph was not exported.

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
class ParityReport:
    """The gate's findings.

    Attributes:
        pictures: how many pictures were compared.
        origins: what they were taken from.
        original: what the graphs were compared with.
        precision: that the graphs are stored in.
        reference: ONNX Runtime, with the graphs as they are stored.
        deployed: the SDK's choice.
        arithmetic: FP16 as a GPU computes it, for FP16 graphs, judged as the reference: PyTorch in
            FP16, or of a bundle its FP32 graphs with every number rounded. On a CPU the engines
            read FP16 and compute in FP32. None for other precisions.
        gate: what had to be reached.
    """

    pictures: int
    origins: tuple[str, ...]
    original: str
    precision: FilePrecision
    reference: EngineParity
    deployed: EngineParity
    arithmetic: EngineParity | None
    gate: Gate

    def failures(self) -> tuple[str, ...]:
        """Says, a short text each, what was not reached; empty where the gate is passed."""
        half = self.arithmetic
        return (
            *(() if half is None else _failures("fp16 arithmetic", half, self.gate.reference)),
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
            doubt = ""
            if self.precision == "int8" and not has_vnni():
                doubt = (
                    "; this CPU is not known to have VNNI, and INT8 sums may overflow without: "
                    "export on one that has"
                )
            raise ParityError(
                f"the {self.precision} graphs differ from {self.original} on {self.pictures} "
                f"pictures, nothing was written: {'; '.join(failures)}{doubt}"
            )

    def summary(self) -> tuple[str, ...]:
        """Says in a line for each engine how near it came to the original."""
        engines = (
            ("reference", self.reference),
            ("deployed", self.deployed),
            ("GPU's", self.arithmetic),
        )
        return tuple(
            f"parity on {self.pictures} pictures, {role} arithmetic ({parity.engine}): "
            f"{', '.join(_figures(parity))}"
            for role, parity in engines
            if parity is not None
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
        original: what the original made of them; all four are there.
        deployed: what the SDK's engine made of them.
    """

    report: ParityReport
    photos: Pictures
    original: Outputs
    deployed: Outputs


def compare(
    original: Original,
    graphs: Mapping[ModelName, bytes],
    photos: GatePictures,
    narrator: Narrator,
    *,
    precision: FilePrecision = "fp32",
    gate: Gate | None = None,
) -> Comparison:
    """Compares exported graphs with what they were made from.

    Args:
        original: the networks at full precision.
        graphs: ONNX files, one or more.
        photos: real pictures.
        narrator: is told the progress.
        precision: that the graphs are stored in.
        gate: what is to be reached, by which `report.check()` of the result judges; None is the
            precision's own.

    Raises:
        BundleError: a graph has the wrong inputs or outputs.
        EngineError: an engine is missing or cannot run a graph.
        ConfigurationError: a network leaves FP16's range.
        ParityError: a graph failed, or gave numbers that are not finite.
    """
    expected = original.outputs(photos.pictures, narrator)
    judged = _Judged(original, graphs, precision, photos.pictures, expected, narrator)
    arithmetic = None
    if precision == "fp16" and isinstance(original, TrainedOriginal):
        half = half_outputs(original.networks, [*graphs], photos.pictures, expected, narrator)
        arithmetic = _parity("PyTorch on cpu, fp16", expected, half)
    elif precision == "fp16" and isinstance(original, GraphOriginal):
        rounding = rounding_graphs({model: original.graphs[model] for model in graphs})
        judge = _Judged(original, rounding, "fp32", photos.pictures, expected, narrator)
        half, name = judge.run("reference")
        arithmetic = _parity(f"{name}, every number rounded to fp16", expected, half)
    reference, reference_name = judged.run("reference")
    deployed, deployed_name = judged.run("deployed")
    report = ParityReport(
        pictures=len(photos.pictures),
        origins=photos.origins,
        original=original.name,
        precision=precision,
        reference=_parity(reference_name, expected, reference),
        deployed=_parity(deployed_name, expected, deployed),
        arithmetic=arithmetic,
        gate=gate or GATES[precision],
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
    agreement = float((expected.argmax(axis=1) == found.argmax(axis=1)).mean())
    return LabelParity(
        label_agreement=agreement,
        assured_agreement=_at_least(agreement, len(expected)),
        mean_difference=float(difference.mean()),
        max_difference=float(difference.max()),
        narrowness=_narrowness(expected, found),
    )


def _narrowness(expected: Probabilities, found: Probabilities) -> float:
    changed = expected[expected.argmax(axis=1) != found.argmax(axis=1)]
    second, first = np.partition(changed, (-2, -1), axis=1)[:, -2:].T
    return float((first - second).max(initial=0.0))


def _psnr(square: float) -> float:
    return PSNR_CEILING if square == 0 else min(PSNR_CEILING, 10 * float(np.log10(255**2 / square)))


def _at_least(share: float, count: int) -> float:
    """Wilson's lower bound of a share that was found among `count`."""
    square = _NORMAL_95**2
    spread = _NORMAL_95 * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (share + square / (2 * count) - spread) / (1 + square / count)


@dataclass(frozen=True)
class _Judged:
    """Exported graphs, and what they are judged on."""

    original: Original
    graphs: Mapping[ModelName, bytes]
    precision: FilePrecision
    photos: Pictures
    expected: Outputs
    narrator: Narrator

    def run(self, which: Literal["reference", "deployed"]) -> tuple[Outputs, str]:
        """Runs the graphs in one engine; returns what they made and the engine's description."""
        names: dict[str, None] = {}

        def run(
            model: ModelName, pictures: Pictures | None, again: str = ""
        ) -> NDArray[Any] | None:
            if model not in self.graphs or pictures is None:
                return None
            engine = self._engine(model, which)
            info = engine.info
            names[f"{info.engine} on {info.device}, {info.precision}"] = None
            text = f"parity gate: {model}{again} in {info.engine} ({info.precision})"
            # One picture at a time is what a camera runs; the reference shows that N is free.
            batch = 1 if which == "deployed" else BATCH
            try:
                return infer_all(engine, pictures, batch, self.narrator, text)
            except EngineError as error:
                raise ParityError(f"{model}.onnx ({self.precision}): {error}") from error

        cartoons = run("transfer", self.photos)
        outputs = Outputs(
            cartoons=cartoons,
            restored=run("restorer", self.expected.cartoons),
            probabilities=run("recognizer", self.expected.cartoons),
            chain=run("recognizer", cartoons, " after transfer"),
        )
        return outputs, "; ".join(names)

    def _engine(self, model: ModelName, which: Literal["reference", "deployed"]) -> Engine:
        data, size = self.graphs[model], self.original.image_size
        if which == "reference":
            return reference_engine(model, data, self.precision, size, self.original.classes)
        ports = signature(model, size, self.original.classes)
        return load(Graph(data, f"{model}.onnx", self.precision, ports), choose())


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
                f"not {least.label_agreement:.2%}{_if_unsure(labels)}"
            )
    return failures


def _if_unsure(labels: LabelParity) -> str:
    if not 0 < labels.narrowness < _NARROW:
        return ""
    return (
        f" (of the others it prefers its own by {labels.narrowness:.2f} at most: near guesses, "
        "about which rounding decides: train it further)"
    )


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
                f"{name} labels {labels.label_agreement:.1%} equal (of all such pictures "
                f"{labels.assured_agreement:.1%} or more, at 95% confidence; largest difference "
                f"{labels.max_difference:.1g})"
            )
    return figures
