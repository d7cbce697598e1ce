"""Transfer generator and recognizer as one: aligned faces in, cartoons and labels out.

Where the engine can, the cartoons go from one network to the other on the card; they come to the
host once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dtir_sdk.batches import largest_batch
from dtir_sdk.bundle import Bundle
from dtir_sdk.engines import Chained, EngineInfo, choose, load_chain
from dtir_sdk.errors import EngineError
from dtir_sdk.graphs import bundle_graph, suited
from dtir_sdk.parties import Recognition
from dtir_sdk.pictures import Picture, check_crops
from dtir_sdk.results import Timings


@dataclass(frozen=True)
class Cascaded:
    """What `Cascade` gives.

    Attributes:
        cartoons: uint8 [N, S, S, 3], BGR.
        recognitions: what was read from each of them.
        transfer_engine: milliseconds of the transfer generator in its engine.
        recognizer_engine: milliseconds of the recognizer in its engine.
    """

    cartoons: Picture
    recognitions: tuple[Recognition, ...]
    transfer_engine: float
    recognizer_engine: float

    def timings(self, detect: float, align: float, networks: float, compose: float) -> Timings:
        """Says how long the parts of a call took.

        Args:
            detect: seconds for finding the faces.
            align: seconds for cutting them out.
            networks: seconds for both networks, with all that surrounds them.
            compose: seconds for setting the cartoons into the frame.
        """
        return Timings(
            detect=1e3 * detect,
            align=1e3 * align,
            transfer=1e3 * networks - self.recognizer_engine,
            recognize=self.recognizer_engine,
            compose=1e3 * compose,
            total=1e3 * (detect + align + networks + compose),
            transfer_engine=self.transfer_engine,
            recognizer_engine=self.recognizer_engine,
        )


class Cascade:
    """Both networks of a bundle. May be shared by threads.

    Args:
        bundle: holds the transfer generator and the recognizer.
        engine: see `Transfer`, as for those that follow.
        device: where to compute.
        precision: the arithmetic.
        threads: CPU threads.
        mode: `latency` or `throughput`.

    Attributes:
        bundle: the bundle, with the graphs that are run.

    Raises:
        BundleError: the bundle lacks a graph, or one is not what it must be.
        EngineError: the engine cannot be had.
        ConfigurationError: an option does not fit.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        mode: str = "latency",
    ) -> None:
        choice = choose(engine, device)
        self.bundle = bundle = suited(bundle, choice, precision)
        self._size = bundle.manifest.image_size
        self._labels = bundle.manifest.labels
        self._largest = largest_batch(bundle.manifest.batches)
        self._chain = load_chain(
            bundle_graph(bundle, "transfer"),
            bundle_graph(bundle, "recognizer"),
            choice,
            precision,
            threads,
            mode,
        )
        try:
            # The first run is the slow one: better here than with the first picture.
            self._chain.infer(np.zeros((1, self._size, self._size, 3), np.uint8))
        except BaseException:
            self.close()
            raise

    @property
    def engine(self) -> EngineInfo:
        """Which engine was picked, and why."""
        return self._chain.info

    def __call__(self, crops: Picture) -> Cascaded:
        """Turns faces into cartoons and reads the label from these.

        Args:
            crops: uint8 [N, S, S, 3], BGR, N of 0 or more.

        Returns:
            The cartoons, the recognitions and the times; the caller's own.

        Raises:
            PictureError: the array has another type or shape.
            EngineError: the engine failed, is closed, or gave no finite probabilities.
        """
        crops = check_crops(crops, self._size)
        try:
            if len(crops) == 0:
                self._chain.check_open()
                return Cascaded(crops.copy(), (), 0.0, 0.0)
            chained = self._infer(crops) if len(crops) <= self._largest else self._in_parts(crops)
        except EngineError as error:
            raise EngineError(f"transfer and recognition: {error}") from error
        return Cascaded(
            chained.first,
            tuple(Recognition.of(row, self._labels) for row in chained.second),
            *chained.milliseconds,
        )

    def close(self) -> None:
        """Frees the engine; may be called again."""
        self._chain.close()

    def _in_parts(self, crops: Picture) -> Chained:
        starts = range(0, len(crops), self._largest)
        parts = [self._infer(crops[start : start + self._largest]) for start in starts]
        transfer, recognizer = np.sum([part.milliseconds for part in parts], axis=0).tolist()
        return Chained(
            np.concatenate([part.first for part in parts]),
            np.concatenate([part.second for part in parts]),
            (transfer, recognizer),
        )

    def _infer(self, crops: Picture) -> Chained:
        return self._chain.infer(crops, swapped=True)
