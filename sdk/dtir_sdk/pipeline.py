"""The whole way: find faces, align, transfer, recognize, set the cartoons into the frame."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from inspect import iscoroutinefunction
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from numpy.typing import NDArray

from dtir_sdk.bundle import Bundle
from dtir_sdk.cascade import Cascade, Reader
from dtir_sdk.closing import Closing
from dtir_sdk.composition import Cover, Surround, compose
from dtir_sdk.engines import EngineInfo
from dtir_sdk.engines.base import check_not_forked
from dtir_sdk.errors import BundleError, ConfigurationError, EngineError, PictureError
from dtir_sdk.face_session import FaceSession
from dtir_sdk.faces import FaceFinder, alignment, crop_faces
from dtir_sdk.parties import Recognizer
from dtir_sdk.pictures import Color, Picture, check_color, check_picture, read_picture, swap_colors
from dtir_sdk.results import Face, Result
from dtir_sdk.session import Faces, Following, VideoSession
from dtir_sdk.sources import find_sources, is_video
from dtir_sdk.videos import VideoReader
from dtir_sdk.whole import WholeSession, whole_result

if TYPE_CHECKING:
    from dtir_sdk.capture import Source
    from dtir_sdk.live import LiveRun, Stream

# Least score of a face.
_CONFIDENCE = 0.6


class Pipeline(Closing):
    """Turns frames into results that are safe to show.

    May be shared by threads: every call stands for itself, and the engines serialise theirs.
    Close it, or use it in a `with` statement.

    A face that the detector does not find stays as it is in a frame in which another one was
    found; a frame in which none was found gives a grey card.

    Of a bundle that takes whole pictures (`Manifest.crop`), no faces are looked for: the cartoon
    takes the place of all of the frame, and the result has one `Face`, which is all of it.

    Args:
        bundle: a bundle or its folder; None is the one that comes with dtir. It must hold the
            transfer generator, and the recognizer unless one is given.
        engine: `auto`, `openvino`, `onnxruntime`, `tensorrt` or `tensorrt-rtx`; `auto` picks the
            best that works here.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `bf16`, `f32` or `int8`, the arithmetic, see `Transfer`.
        faces: `all`, or `largest` for the largest face only; the others are then covered in
            `Result.image` with grey. Not for whole pictures.
        surround: what `Result.image` shows around the faces: the frame itself (`keep`), the frame
            blurred beyond recognition (`blur`), or grey (`blank`); not for whole pictures.
        color: order of the channels of the frames taken, alone or out of an iterable, and of the
            pictures given.
        threads: CPU threads of the engines and of the face detector; None leaves it to them.
        confidence: least score of a face in [0, 1]; not for whole pictures.
        mode: `latency` or `throughput`, see `Transfer`.
        recognizer: reads the cartoons in place of the bundle's own, so that a bundle of the role
            `edge` will do: a `Recognizer` in BGR; or a function, such as one that asks the cloud,
            which takes uint8 [N, S, S, 3] in BGR, whatever `color` is, with N of 1 or more and at
            most the bundle's largest batch, and gives for each cartoon every label's probability:
            `[{"female": 0.1, "male": 0.9}]`. The labels are its own. Threads that share the
            pipeline may call it at the same time. It should have a time limit: a stream that is
            closed waits a second for it, and then leaves it.

    Attributes:
        bundle: the bundle, with the graphs that are run.
        faces: as given.
        surround: as given.

    Raises:
        BundleError: the bundle cannot be used.
        EngineError: the engine cannot be had.
        ConfigurationError: an argument is none of those named above, or not for this bundle.

    Examples:
        >>> from dtir_sdk.pictures import read_picture
        >>> with Pipeline(bundle_folder) as pipeline:
        ...     result = pipeline(read_picture(portrait))
        >>> len(result.faces)
        1
        >>> result.faces[0].label in ("female", "male")
        True
    """

    def __init__(
        self,
        bundle: Bundle | str | PathLike[str] | None = None,
        *,
        engine: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        faces: Faces = "all",
        surround: Surround = "keep",
        color: Color = "bgr",
        threads: int | None = None,
        confidence: float = _CONFIDENCE,
        mode: str = "latency",
        recognizer: Recognizer | Reader | None = None,
    ) -> None:
        check_color(color)
        if faces not in get_args(Faces):
            raise ConfigurationError(f"faces must be 'all' or 'largest', not {faces!r}")
        if surround not in get_args(Surround):
            raise ConfigurationError(
                f"surround must be 'keep', 'blur' or 'blank', not {surround!r}"
            )
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        manifest = opened.manifest
        reader = None if recognizer is None else _reader(recognizer, manifest.image_size)
        _check_complete(opened, reader)
        self._whole = manifest.crop == "whole"
        if self._whole and (faces, surround, confidence) != ("all", "keep", _CONFIDENCE):
            raise ConfigurationError(
                f"{opened.folder} is for whole pictures: no faces are looked for, and nothing is "
                "left around them: leave faces, surround and confidence out"
            )
        self._size = manifest.image_size
        self._color: Color = color
        self._closed = False
        self._process = os.getpid()
        self.faces: Faces = faces
        self.surround: Surround = surround
        self._confidence = confidence
        self._threads = threads
        self._finder = None if self._whole else FaceFinder(confidence, threads=threads)
        self._cascade = Cascade(
            opened,
            engine=engine,
            device=device,
            precision=precision,
            threads=threads,
            mode=mode,
            recognizer=reader,
        )
        self.bundle = self._cascade.bundle

    @property
    def engine(self) -> EngineInfo:
        """Which engine was picked, and why."""
        return self._cascade.engine

    def __reduce__(self) -> NoReturn:
        raise EngineError("a Pipeline cannot be pickled or copied: make one in each process")

    def __call__(self, frame: NDArray[Any]) -> Result:
        """Replaces the faces of a frame by cartoons and reads the attribute from these.

        Args:
            frame: uint8 [H, W, 3], in the pipeline's colour order; not written to, not kept.

        Returns:
            The faces, the picture that is safe to show, and the timings; the caller's own.

        Raises:
            PictureError: the frame has another type or shape.
            EngineError: the engine failed or the pipeline is closed; a `RecognizerError` where the
                recognizer that was given failed.
        """
        start = perf_counter()
        self._check_open()
        picture = check_picture(frame)
        if self._color == "rgb":
            picture = swap_colors(picture)
        if self._finder is None:
            return whole_result(picture, self._cascade, self._size, self._color)[0]
        found = self._finder.find(picture)
        detected = perf_counter()
        wanted = found[:1] if self.faces == "largest" else found
        transforms = [alignment(face.landmarks, self._size) for face in found]
        crops = crop_faces(picture, transforms[: len(wanted)], self._size)
        aligned = perf_counter()
        cascaded = self._cascade(crops)
        cartoons = cascaded.cartoons
        recognized = perf_counter()
        covers = [
            Cover(transform, cartoons[n] if n < len(cartoons) else None)
            for n, transform in enumerate(transforms)
        ]
        image = compose(picture, covers, self.surround, self._size)
        if self._color == "rgb":
            image = swap_colors(image)
            cartoons = swap_colors(cartoons)
        faces = tuple(
            Face(
                face.box,
                recognition.label,
                recognition.confidence,
                recognition.probabilities,
                cartoon,
                face.landmarks,
            )
            for face, recognition, cartoon in zip(
                wanted, cascaded.recognitions, cartoons, strict=True
            )
        )
        end = perf_counter()
        timings = cascaded.timings(
            detected - start, aligned - detected, recognized - aligned, end - recognized
        )
        return Result(faces, image, timings, self._color)

    def run(
        self,
        source: str | PathLike[str],
        *,
        on_error: Callable[[str, PictureError], None] | None = None,
    ) -> Iterator[tuple[str, Result]]:
        """Works through a picture, a video, a folder of either, or a pattern.

        Args:
            source: see `sources.find_sources`.
            on_error: called with the file and the error for a file that cannot be read, after
                which the next file follows; None raises the error.

        Yields:
            The file (`file#7` for the eighth frame of a video) and its result, in order.

        Raises:
            PictureError: there is no such source, or a file cannot be read.
            EngineError: the engine failed or the pipeline is closed.
        """
        for path in find_sources(source):
            try:
                if is_video(path):
                    yield from self._run_video(path)
                else:
                    yield str(path), self(read_picture(path, color=self._color))
            except PictureError as error:
                if on_error is None:
                    raise
                on_error(str(path), error)

    def video(self, following: Following | None = None) -> VideoSession:
        """Makes a session for the frames of one video, in order, with their times.

        It keeps people apart by `Face.track`, steadies places and labels, and keeps a face
        covered that is lost for a moment.

        Args:
            following: how faces are followed; None is the default.

        Raises:
            ConfigurationError: `following` is no `Following`, or the bundle is for whole pictures.
            EngineError: the pipeline is closed.

        Examples:
            >>> from dtir_sdk.pictures import read_picture
            >>> frame = read_picture(portrait)
            >>> with Pipeline(bundle_folder) as pipeline:
            ...     session = pipeline.video()
            ...     [session(frame, seconds).faces[0].track for seconds in (0.0, 0.04, 0.08)]
            [1, 1, 1]
        """
        self._check_open()
        return self._session(self._checked(following))

    def stream(
        self,
        source: Source | str | int | PathLike[str] | Iterable[NDArray[Any]],
        following: Following | None = None,
    ) -> Stream:
        """Works through a camera, a stream, a video or pictures, in threads that overlap.

        Nobody is followed from one picture file to the next: each stands for itself.

        Args:
            source: what `capture.Source.open` takes, the frames of an iterable in the pipeline's
                colour order; or a source that it opened. Of a live one the newest frame is taken
                and the others are dropped; of a file none is lost. It is closed with the stream,
                or at once where there will be none.
            following: how faces are followed; None is the default.

        Returns:
            An iterator over results, that is best used in a `with` statement.

        Raises:
            SourceError: a camera or stream cannot be opened.
            PictureError: a file cannot be opened.
            ConfigurationError: it is no source, or `following` is no `Following`.
            EngineError: the pipeline is closed.
        """
        from dtir_sdk.capture import Source
        from dtir_sdk.live import Stream

        # No camera stays on where this fails.
        with ExitStack() as failed:
            if isinstance(source, Source):
                failed.enter_context(source)
            self._check_open()
            following = self._checked(following)
            if isinstance(source, Source):
                opened = source
            elif isinstance(source, Iterable) and not isinstance(source, str):
                opened = failed.enter_context(Source.open(source, color=self._color))
            else:
                opened = failed.enter_context(Source.open(source))
            stream = Stream(self._session(following, opened.continuous), opened)
            failed.pop_all()
        return stream

    def live(
        self,
        source: Source | str | int | PathLike[str] | Iterable[NDArray[Any]],
        callback: Callable[[Result], None],
        following: Following | None = None,
    ) -> LiveRun:
        """Works through a source in the background and calls back with every result.

        Args:
            source: as for `stream`.
            callback: called in a thread of the run; an error of its ends the run, and is raised
                by `LiveRun.join`.
            following: how faces are followed; None is the default.

        Raises:
            SourceError: a camera or stream cannot be opened.
            PictureError: a file cannot be opened.
            ConfigurationError: it is no source, `following` is no `Following`, or `callback`
                cannot be called.
            EngineError: the pipeline is closed.
        """
        from dtir_sdk.live import LiveRun

        return LiveRun(self.stream(source, following), callback)

    def _check_open(self) -> None:
        check_not_forked(self._process)
        if self._closed:
            raise EngineError("this Pipeline was used after close(): make a new one")

    def _session(self, following: Following, continuous: bool = True) -> VideoSession:
        if self._whole:
            return WholeSession(
                self._cascade, size=self._size, color=self._color, continuous=continuous
            )
        return FaceSession(
            self._cascade,
            size=self._size,
            faces=self.faces,
            color=self._color,
            surround=self.surround,
            confidence=self._confidence,
            threads=self._threads,
            following=following,
            continuous=continuous,
        )

    def _run_video(self, path: Path) -> Iterator[tuple[str, Result]]:
        session = self.video()
        with VideoReader(path) as video:
            while (read := video.read()) is not None:
                seconds, frame = read
                yield f"{path}#{video.frames - 1}", session(self._in_color(frame), seconds)

    def close(self) -> None:
        """Frees the engines; may be called again. Calls after it raise `EngineError`."""
        self._closed = True
        self._cascade.close()

    def _checked(self, following: Following | None) -> Following:
        if following is None:
            return Following()
        if not isinstance(following, Following):
            raise ConfigurationError(
                f"following must be a Following, such as Following(hold=2.0), not {following!r:.80}"
            )
        if self._whole and following != Following():
            raise ConfigurationError(
                f"{self.bundle.folder} is for whole pictures: there are no faces to follow: leave "
                "following out"
            )
        return following

    def _in_color(self, frame: Picture) -> Picture:
        return frame if self._color == "bgr" else swap_colors(frame)


def _check_complete(bundle: Bundle, recognizer: Reader | None) -> None:
    """Refuses a bundle that lacks a network which nobody else has."""
    manifest = bundle.manifest
    holds = f"{bundle.folder} has the role {manifest.role!r} and holds no"
    if "transfer" not in manifest.files:
        raise BundleError(
            f"{holds} transfer generator, which a Pipeline needs: name a bundle of the role full "
            "or edge, or use Recognizer or Restorer alone"
        )
    if "recognizer" not in manifest.files and recognizer is None:
        raise BundleError(
            f"{holds} recognizer: name a bundle of the role full, or, in Python, give Pipeline "
            "another's recognizer, or use Transfer alone"
        )


def _reader(recognizer: Recognizer | Reader, size: int) -> Reader:
    if isinstance(recognizer, Recognizer):
        own = recognizer.bundle.manifest.image_size
        if own != size or recognizer.color != "bgr":
            raise ConfigurationError(
                f"recognizer reads {own}x{own} in {recognizer.color.upper()}: cartoons are given "
                f"to it as {size}x{size} in BGR"
            )
        batch = recognizer.batch
        return lambda cartoons: [read.probabilities for read in batch(cartoons)]
    if not callable(recognizer) or iscoroutinefunction(recognizer):
        raise ConfigurationError(
            "recognizer must be a Recognizer, or a function that reads cartoons and is not async, "
            f"not {recognizer!r:.80}"
        )
    return recognizer
