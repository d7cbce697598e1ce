"""What exported graphs are judged by: trained networks in PyTorch, or a bundle's FP32 graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dtir_export.graphs import signature
from dtir_export.progress import Narrator
from dtir_sdk.engines import Engine, Graph, choose, load
from dtir_sdk.manifest import FilePrecision, ModelName
from dtir_train.channel import from_bytes, to_bytes
from dtir_train.checkpoint import TrainedNetworks
from dtir_train.networks import Generator

BATCH = 8

Pictures: TypeAlias = NDArray[np.uint8]
Probabilities: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    """What the networks made of private pictures; None where a graph was not exported.

    Attributes:
        cartoons: uint8 [N, S, S, 3].
        restored: uint8 [N, S, S, 3].
        probabilities: float32 [N, K], of the original's cartoons.
        chain: float32 [N, K], of the same engine's cartoons.
    """

    cartoons: Pictures | None
    restored: Pictures | None
    probabilities: Probabilities | None
    chain: Probabilities | None


class Original(Protocol):
    """The networks at full precision.

    Attributes:
        name: what to call it.
        image_size: side S of the pictures.
        classes: number K of labels.
    """

    @property
    def name(self) -> str: ...  # noqa: D102, an attribute

    @property
    def image_size(self) -> int: ...  # noqa: D102, an attribute

    @property
    def classes(self) -> int: ...  # noqa: D102, an attribute

    def outputs(self, photos: Pictures, narrator: Narrator) -> Outputs:
        """Runs all three networks on photos uint8 [N, S, S, 3], RGB; all four outputs are there."""


@dataclass(frozen=True)
class TrainedOriginal:
    """Trained networks, run by PyTorch in FP32.

    Attributes:
        networks: the networks.
    """

    networks: TrainedNetworks

    name = "PyTorch"

    @property
    def image_size(self) -> int:
        """Side S of the pictures."""
        return self.networks.configuration.networks.image_size

    @property
    def classes(self) -> int:
        """Number K of labels."""
        return len(self.networks.labels)

    def outputs(self, photos: Pictures, narrator: Narrator) -> Outputs:
        """See `Original`."""
        cartoons, restored, probabilities = [], [], []
        starts = range(0, len(photos), BATCH)
        with torch.inference_mode():
            for start in narrator.track(starts, "parity gate: PyTorch", len(starts)):
                batch = torch.from_numpy(photos[start : start + BATCH]).permute(0, 3, 1, 2)
                cartoon = _generated(self.networks.transfer, batch)
                cartoons.append(cartoon)
                restored.append(_generated(self.networks.restorer, cartoon))
                logits = self.networks.recognizer(from_bytes(cartoon))
                probabilities.append(torch.softmax(logits, 1))
        read = torch.cat(probabilities).numpy()
        return Outputs(_last(cartoons), _last(restored), read, read)


@dataclass(frozen=True)
class GraphOriginal:
    """FP32 graphs, run by ONNX Runtime in FP32.

    Attributes:
        graphs: all three ONNX files.
        image_size: side S of the pictures.
        classes: number K of labels.
    """

    graphs: Mapping[ModelName, bytes]
    image_size: int
    classes: int

    name = "the FP32 graphs"

    def outputs(self, photos: Pictures, narrator: Narrator) -> Outputs:
        """See `Original`."""

        def run(model: ModelName, pictures: Pictures) -> NDArray[Any]:
            engine = reference_engine(
                model, self.graphs[model], "fp32", self.image_size, self.classes
            )
            text = f"parity gate: {model} in FP32"
            return infer_all(engine, pictures, BATCH, narrator, text)

        cartoons: Pictures = run("transfer", photos)
        read: Probabilities = run("recognizer", cartoons)
        return Outputs(cartoons, run("restorer", cartoons), read, read)


def reference_engine(
    model: ModelName, data: bytes, precision: FilePrecision, size: int, classes: int
) -> Engine:
    """Loads a graph in ONNX Runtime on the CPU, which computes it as it is stored.

    Args:
        model: which graph.
        data: the ONNX file.
        precision: that it is stored in.
        size: side S of the pictures.
        classes: number K of labels.

    Raises:
        BundleError: the graph has the wrong inputs or outputs.
        EngineError: ONNX Runtime is missing or cannot load the graph.
    """
    graph = Graph(data, f"{model}.onnx", precision, signature(model, size, classes))
    return load(graph, choose("onnxruntime", "cpu"), "f32" if precision == "fp32" else "auto")


def infer_all(
    engine: Engine, pictures: Pictures, batch: int, narrator: Narrator, text: str
) -> NDArray[Any]:
    """Runs an engine over pictures in batches, and closes it.

    Args:
        engine: loaded.
        pictures: uint8 [N, S, S, 3].
        batch: how many at a time.
        narrator: is told the progress.
        text: what to tell it.

    Raises:
        EngineError: the engine failed, or gave numbers that are not finite.
    """
    starts = range(0, len(pictures), batch)
    try:
        return np.concatenate(
            [
                engine.infer(np.ascontiguousarray(pictures[start : start + batch]))
                for start in narrator.track(starts, text, len(starts))
            ]
        )
    finally:
        engine.close()


def _generated(network: Generator, batch: torch.Tensor) -> torch.Tensor:
    return to_bytes(network(from_bytes(batch)))


def _last(batches: list[torch.Tensor]) -> Pictures:
    """Joins batches [n, 3, S, S] into an array [N, S, S, 3]."""
    joined: Pictures = torch.cat(batches).permute(0, 2, 3, 1).contiguous().numpy()
    return joined
