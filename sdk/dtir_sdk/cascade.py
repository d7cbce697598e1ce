"""Transfer generator and recognizer as one: aligned faces in, cartoons and labels out.

Where the engine can, the cartoons go from one network to the other on the card; they come to the
host once, at the end. Or the cartoons are handed to somebody else to read, such as the cloud.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.batches import largest_batch
from dtir_sdk.bundle import Bundle
from dtir_sdk.engines import Chain, Chained, Engine, EngineInfo, choose, load, load_chain
from dtir_sdk.errors import EngineError
from dtir_sdk.files import reason
from dtir_sdk.graphs import bundle_graph, suited
from dtir_sdk.parties import Recognition
from dtir_sdk.pictures import Picture, check_crops, swap_colors
from dtir_sdk.results import Timings

# Reads cartoons, uint8 [N, S, S, 3] in BGR: every label's probability, [N, K], in the order of the
# manifest's labels. `Recognizer.probabilities` is one.
Reader = Callable[[Picture], NDArray[np.floating]]


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


class _ReadElsewhere(Chain):
    """The transfer generator here, and a recognizer that somebody else has.

    Args:
        transfer: takes the crops; closed with the chain.
        recognizer: reads what it gives.
        labels: how many there are.
    """

    def __init__(self, transfer: Engine, recognizer: Reader, labels: int) -> None:
        super().__init__(transfer.info)
        self._transfer, self._recognizer, self._labels = transfer, recognizer, labels

    def _infer(self, batch: Picture) -> Chained:
        chained = self._infer_swapped(swap_colors(batch))
        return replace(chained, first=swap_colors(chained.first))

    def _infer_swapped(self, batch: Picture) -> Chained:
        start = perf_counter()
        cartoons = self._transfer.infer(batch, swapped=True)
        transferred = perf_counter()
        probabilities = self._read(cartoons)
        read = perf_counter()
        milliseconds = 1e3 * (transferred - start), 1e3 * (read - transferred)
        return Chained(cartoons, probabilities, milliseconds)

    def _read(self, cartoons: Picture) -> NDArray[np.float32]:
        try:
            # A copy, so that what is shown is not what somebody else may write to.
            probabilities = np.asarray(self._recognizer(cartoons.copy()), np.float32)
        except Exception as error:
            raise EngineError(
                f"the recognizer that was given failed on {len(cartoons)} cartoons: {reason(error)}"
            ) from error
        wanted = (len(cartoons), self._labels)
        if probabilities.shape != wanted:
            raise EngineError(
                f"the recognizer that was given gave an array of {list(probabilities.shape)} for "
                f"{len(cartoons)} cartoons: it must give {list(wanted)}, each label's probability"
            )
        # Said so that it holds for NaN, too.
        if not (probabilities.min() >= 0 and probabilities.max() <= 1):
            raise EngineError(
                "the recognizer that was given gave numbers that are no probabilities: they must "
                "lie in [0, 1]"
            )
        return probabilities

    def _release(self) -> None:
        self._transfer.close()


class Cascade:
    """Both networks of a bundle. May be shared by threads.

    Args:
        bundle: holds the transfer generator and, unless `recognizer` is given, the recognizer.
        engine: see `Transfer`, as for those that follow.
        device: where to compute.
        precision: the arithmetic.
        threads: CPU threads.
        mode: `latency` or `throughput`.
        recognizer: reads the cartoons in place of the bundle's own recognizer, which is not loaded.

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
        recognizer: Reader | None = None,
    ) -> None:
        choice = choose(engine, device)
        self.bundle = bundle = suited(bundle, choice, precision)
        self._size = bundle.manifest.image_size
        self._labels = bundle.manifest.labels
        self._largest = largest_batch(bundle.manifest.batches)
        options = choice, precision, threads, mode
        transfer = bundle_graph(bundle, "transfer")
        first: Engine | Chain
        if recognizer is None:
            first = self._chain = load_chain(transfer, bundle_graph(bundle, "recognizer"), *options)
        else:
            first = load(transfer, *options)
            self._chain = _ReadElsewhere(first, recognizer, len(self._labels))
        try:
            # The first run is the slow one: better here than with the first picture. Nobody else is
            # asked to read what is no cartoon.
            first.infer(np.zeros((1, self._size, self._size, 3), np.uint8))
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
