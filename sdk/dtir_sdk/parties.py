"""The three parties' own classes, each usable alone with only its own file.

`Transfer` stands on the edge, `Recognizer` in the cloud, `Restorer` at the authority.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from dtir_sdk.batches import largest_batch
from dtir_sdk.bundle import Bundle
from dtir_sdk.closing import Closing
from dtir_sdk.engines import Array, EngineInfo, choose, load
from dtir_sdk.errors import EngineError, PictureError
from dtir_sdk.graphs import bundle_graph, suited
from dtir_sdk.manifest import ModelName
from dtir_sdk.pictures import Color, Picture, check_color, check_crops


@dataclass(frozen=True)
class Recognition:
    """What was read from a cartoon.

    Attributes:
        label: the likeliest label.
        confidence: its probability, in [0, 1].
        probabilities: every label's probability.
    """

    label: str
    confidence: float
    probabilities: dict[str, float] = field(repr=False, hash=False)

    @classmethod
    def of(cls, row: NDArray[np.float32], labels: Sequence[str]) -> Self:
        """Reads a row of the recognizer's output.

        Args:
            row: float32 [K], the probabilities.
            labels: the K labels.
        """
        # A list is quicker than NumPy for so few, the more so after a network has run.
        return cls.likeliest(dict(zip(labels, row.tolist(), strict=True)))

    @classmethod
    def likeliest(cls, probabilities: dict[str, float]) -> Self:
        """Takes the likeliest label; of several, the first.

        Args:
            probabilities: every label's.
        """
        label = max(probabilities, key=probabilities.__getitem__)
        return cls(label, probabilities[label], probabilities)


class _Party(Closing):
    """One graph of a bundle in an engine."""

    _model: ClassVar[ModelName]

    def __init__(
        self,
        bundle: Bundle | str | PathLike[str] | None = None,
        *,
        engine: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        color: Color = "bgr",
        threads: int | None = None,
        mode: str = "latency",
    ) -> None:
        check_color(color)
        self.color: Color = color
        choice = choose(engine, device)
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.bundle = suited(opened, choice, precision)
        size = self.bundle.manifest.image_size
        self._largest = largest_batch(self.bundle.manifest.batches)
        graph = bundle_graph(self.bundle, self._model)
        self._engine = load(graph, choice, precision, threads, mode)
        try:
            # The first run is the slow one: better here than with the first picture.
            self._infer(np.zeros((1, size, size, 3), np.uint8))
        except BaseException:
            self._engine.close()
            raise

    @property
    def engine(self) -> EngineInfo:
        """Which engine was picked, and why."""
        return self._engine.info

    def close(self) -> None:
        """Frees the engine; may be called again. Calls after it raise `EngineError`."""
        self._engine.close()

    def __reduce__(self) -> NoReturn:
        raise EngineError(
            f"a {type(self).__name__} cannot be pickled or copied: make one in each process"
        )

    def _run(self, crops: Picture) -> Array:
        """Runs checked crops uint8 [N, S, S, 3], N of 1 or more."""
        if len(crops) <= self._largest:
            return self._infer(crops)
        # In parts, so that memory stays bounded.
        starts = range(0, len(crops), self._largest)
        return np.concatenate(
            [self._infer(crops[start : start + self._largest]) for start in starts]
        )

    def _infer(self, crops: Picture) -> Array:
        with self._named():
            return self._engine.infer(crops, swapped=self.color == "bgr")

    def _check_open(self) -> None:
        with self._named():
            self._engine.check_open()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except EngineError as error:
            raise EngineError(f"{type(self).__name__}: {error}") from error


class _PictureParty(_Party):
    """A party that gives pictures for pictures."""

    def __call__(self, pictures: NDArray[Any]) -> Picture:
        crops = check_crops(pictures, self.bundle.manifest.image_size)
        if len(crops) == 0:
            self._check_open()
            return crops.copy()
        return self._run(crops).reshape(pictures.shape)


class Transfer(_PictureParty):
    """The edge: turns aligned face crops into cartoons.

    May be shared by threads. Close it, or use it in a `with` statement.

    Args:
        bundle: a bundle or its folder; None is the one that comes with dtir.
        engine: `auto`, `openvino`, `onnxruntime`, `tensorrt` or `tensorrt-rtx`.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `bf16`, `f32` or `int8`: the arithmetic. INT8 needs graphs that are
            stored in it; of a bundle that holds both, `auto` takes those that suit the CPU.
        color: order of the channels of the pictures taken and given.
        threads: CPU threads; None leaves it to the engine.
        mode: `latency`, each call as soon as may be; or `throughput`, batches as many a second
            as may be, which OpenVINO offers.

    Attributes:
        bundle: the bundle, with the graph that is run.
        color: as given.

    Raises:
        BundleError: the bundle cannot be used or holds no transfer generator.
        EngineError: the engine cannot be had.
        ConfigurationError: an argument is none of those named above.

    Examples:
        >>> import numpy as np
        >>> with Transfer(bundle_folder) as transfer:
        ...     transfer(np.zeros((32, 32, 3), np.uint8)).shape
        ...     transfer(np.zeros((4, 32, 32, 3), np.uint8)).shape
        (32, 32, 3)
        (4, 32, 32, 3)
    """

    _model = "transfer"

    def __call__(self, pictures: NDArray[Any]) -> Picture:
        """Turns crops into cartoons.

        Args:
            pictures: uint8 [S, S, 3] or [N, S, S, 3], aligned as `faces.crop_face` does, or made
                by `whole.whole_crop` where the manifest's `crop` is `whole`.

        Returns:
            The cartoons, of the same shape; the caller's own.

        Raises:
            PictureError: the array has another type or shape.
            EngineError: the engine failed or is closed.
        """
        return super().__call__(pictures)


class Restorer(_PictureParty):
    """The authority: turns cartoons back into the photos. Arguments as `Transfer`'s.

    Raises:
        BundleError: the bundle cannot be used or holds no restore generator.
        EngineError: the engine cannot be had.
        ConfigurationError: an argument is none of those that `Transfer` names.
    """

    _model = "restorer"

    def __call__(self, pictures: NDArray[Any]) -> Picture:
        """Turns cartoons into photos.

        Args:
            pictures: uint8 [S, S, 3] or [N, S, S, 3].

        Returns:
            The photos, of the same shape; the caller's own.

        Raises:
            PictureError: the array has another type or shape.
            EngineError: the engine failed or is closed.
        """
        return super().__call__(pictures)


class Recognizer(_Party):
    """The cloud: reads the attribute from cartoons. Arguments as `Transfer`'s.

    Raises:
        BundleError: the bundle cannot be used or holds no recognizer.
        EngineError: the engine cannot be had.
        ConfigurationError: an argument is none of those that `Transfer` names.

    Examples:
        >>> import numpy as np
        >>> with Recognizer(bundle_folder) as recognizer:
        ...     recognizer(np.zeros((32, 32, 3), np.uint8)).label in ("female", "male")
        True
    """

    _model = "recognizer"

    def __call__(self, picture: NDArray[Any]) -> Recognition:
        """Reads the attribute from one cartoon.

        Args:
            picture: uint8 [S, S, 3].

        Raises:
            PictureError: the array has another type or shape.
            EngineError: the engine failed, is closed, or gave no finite probabilities.
        """
        if np.ndim(picture) == 4:
            raise PictureError("a recognizer is called with one cartoon: give several to batch()")
        return self.batch(picture)[0]

    def batch(self, pictures: NDArray[Any]) -> tuple[Recognition, ...]:
        """Reads the attribute from several cartoons.

        Args:
            pictures: uint8 [N, S, S, 3], or [S, S, 3] for one.

        Returns:
            N recognitions.

        Raises:
            PictureError: as for a call.
            EngineError: as for a call.
        """
        labels = self.bundle.manifest.labels
        return tuple(Recognition.of(row, labels) for row in self.probabilities(pictures))

    def probabilities(self, pictures: NDArray[Any]) -> NDArray[np.float32]:
        """Returns the bare probabilities, float32 [N, K], labels in the manifest's order.

        Args:
            pictures: as for `batch`.

        Raises:
            PictureError: as for a call.
            EngineError: as for a call.
        """
        crops = check_crops(pictures, self.bundle.manifest.image_size)
        if len(crops) == 0:
            self._check_open()
            return np.zeros((0, len(self.bundle.manifest.labels)), np.float32)
        return self._run(crops)
