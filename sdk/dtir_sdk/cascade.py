"""Transfer generator and recognizer as one: aligned faces in, cartoons and labels out.

Where the engine can, the cartoons go from one network to the other on the card; they come to the
host once, at the end. Or the cartoons are handed to somebody else to read, such as the cloud.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from dtir_sdk.batches import largest_batch
from dtir_sdk.bundle import Bundle
from dtir_sdk.engines import Chain, Engine, EngineInfo, choose, load, load_chain
from dtir_sdk.errors import EngineError, RecognizerError
from dtir_sdk.files import reason
from dtir_sdk.graphs import bundle_graph, suited
from dtir_sdk.parties import Recognition
from dtir_sdk.pictures import Picture, check_crops
from dtir_sdk.results import Timings

# How far from 1 the probabilities of all labels may be.
_ROUNDING = 0.01
# Reads cartoons, uint8 [N, S, S, 3] in BGR, and gives for each of them every label's probability.
Reader = Callable[[Picture], Sequence[Mapping[str, float]]]


@dataclass(frozen=True)
class Cascaded:
    """What `Cascade` gives.

    Attributes:
        cartoons: uint8 [N, S, S, 3], BGR.
        recognitions: what was read from each of them.
        transfer_engine: milliseconds of the transfer generator in its engine.
        recognizer_engine: milliseconds of the recognizer in its engine, or until whoever reads
            cartoons elsewhere had answered.
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


class _ReadHere:
    """Both networks as a chain; see `Cascade` for what its methods do."""

    def __init__(self, chain: Chain, labels: Sequence[str]) -> None:
        self._chain, self._labels = chain, labels
        self.info = chain.info
        self.check_open, self.close = chain.check_open, chain.close

    def warm_up(self, crops: Picture) -> None:
        self._chain.infer(crops)

    def __call__(self, crops: Picture) -> Cascaded:
        chained = self._chain.infer(crops, swapped=True)
        recognitions = tuple(Recognition.of(row, self._labels) for row in chained.second)
        return Cascaded(chained.first, recognitions, *chained.milliseconds)


class _ReadElsewhere:
    """The transfer generator here, and a recognizer that somebody else has.

    No lock is held while that one is asked: it may take long, and closing need not wait for it.
    """

    def __init__(self, transfer: Engine, recognizer: Reader) -> None:
        self._transfer, self._recognizer = transfer, recognizer
        self.info = transfer.info
        self.check_open, self.close = transfer.check_open, transfer.close

    def warm_up(self, crops: Picture) -> None:
        """Nobody else is asked to read what is no cartoon."""
        self._transfer.infer(crops)

    def __call__(self, crops: Picture) -> Cascaded:
        start = perf_counter()
        cartoons = self._transfer.infer(crops, swapped=True)
        transferred = perf_counter()
        recognitions = self._read(cartoons)
        read = perf_counter()
        milliseconds = 1e3 * (transferred - start), 1e3 * (read - transferred)
        return Cascaded(cartoons, recognitions, *milliseconds)

    def _read(self, cartoons: Picture) -> tuple[Recognition, ...]:
        try:
            # A copy, so that what is shown is not what somebody else may write to.
            answers = [
                {str(label): float(value) for label, value in answer.items()}
                for answer in self._recognizer(cartoons.copy())
            ]
        except Exception as error:
            raise RecognizerError(
                f"the recognizer that was given failed on a batch of {len(cartoons)}: "
                f"{reason(error)}"
            ) from error
        if len(answers) != len(cartoons):
            raise RecognizerError(
                f"the recognizer that was given gave {len(answers)} answers for a batch of "
                f"{len(cartoons)}: it must give one for each cartoon"
            )
        return tuple(map(_recognition, answers))


def _recognition(probabilities: dict[str, float]) -> Recognition:
    total = sum(probabilities.values())
    # Said so that NaN is refused, too; what was rounded on its way is not.
    if not (abs(total - 1) < _ROUNDING and min(probabilities.values()) >= 0):
        raise RecognizerError(
            "the recognizer that was given gave no probabilities of labels, which are 0 or more, "
            f"and 1 in all: {str(probabilities)[:80]}"
        )
    if not all(map(_is_text, probabilities)):
        raise RecognizerError(
            "the recognizer that was given gave a label that is empty, or no text that can be "
            f"written: {str(probabilities)[:80]}"
        )
    return Recognition.likeliest({label: min(p, 1.0) for label, p in probabilities.items()})


def _is_text(label: str) -> bool:
    try:
        # JSON's escapes can stand for halves of characters, which end OpenCV when it draws them.
        label.encode()
    except UnicodeEncodeError:
        return False
    return bool(label.strip())


class Cascade:
    """Both networks of a bundle. May be shared by threads.

    Args:
        bundle: holds the transfer generator and, unless `recognizer` is given, the recognizer.
        engine: see `Transfer`, as for those that follow.
        device: where to compute.
        precision: the arithmetic.
        threads: CPU threads.
        mode: `latency` or `throughput`.
        recognizer: reads the cartoons in place of the bundle's own recognizer, which is not
            loaded; the labels are its own.

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
        self._largest = largest_batch(bundle.manifest.batches)
        options = choice, precision, threads, mode
        transfer = bundle_graph(bundle, "transfer")
        self._networks: _ReadHere | _ReadElsewhere
        if recognizer is None:
            both = load_chain(transfer, bundle_graph(bundle, "recognizer"), *options)
            self._networks = _ReadHere(both, bundle.manifest.labels)
        else:
            self._networks = _ReadElsewhere(load(transfer, *options), recognizer)
        try:
            # The first run is the slow one: better here than with the first picture.
            self._networks.warm_up(np.zeros((1, self._size, self._size, 3), np.uint8))
        except BaseException:
            self.close()
            raise

    @property
    def engine(self) -> EngineInfo:
        """Which engine was picked, and why."""
        return self._networks.info

    def __call__(self, crops: Picture) -> Cascaded:
        """Turns faces into cartoons and reads the label from these.

        Args:
            crops: uint8 [N, S, S, 3], BGR, N of 0 or more.

        Returns:
            The cartoons, the recognitions and the times; the caller's own.

        Raises:
            PictureError: the array has another type or shape.
            EngineError: the engine failed, is closed, or gave no finite probabilities.
            RecognizerError: the recognizer that was given failed, or gave no probabilities.
        """
        crops = check_crops(crops, self._size)
        try:
            if len(crops) == 0:
                self._networks.check_open()
                return Cascaded(crops.copy(), (), 0.0, 0.0)
            return self._networks(crops) if len(crops) <= self._largest else self._in_parts(crops)
        except RecognizerError:
            raise
        except EngineError as error:
            raise EngineError(f"transfer and recognition: {error}") from error

    def close(self) -> None:
        """Frees the engine; may be called again."""
        self._networks.close()

    def _in_parts(self, crops: Picture) -> Cascaded:
        starts = range(0, len(crops), self._largest)
        parts = [self._networks(crops[start : start + self._largest]) for start in starts]
        return Cascaded(
            np.concatenate([part.cartoons for part in parts]),
            tuple(recognition for part in parts for recognition in part.recognitions),
            sum(part.transfer_engine for part in parts),
            sum(part.recognizer_engine for part in parts),
        )
