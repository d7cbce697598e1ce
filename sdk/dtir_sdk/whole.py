"""Pictures that are taken as a whole: the cartoon takes the place of all of the picture."""

from __future__ import annotations

from time import perf_counter

import cv2
import numpy as np

from dtir_sdk.cascade import Cascade
from dtir_sdk.pictures import Color, Picture
from dtir_sdk.results import Face, FrameStamp, Result
from dtir_sdk.session import Look, Steadied, VideoSession


def whole_crop(picture: Picture, size: int) -> Picture:
    """Stretches a whole picture to the square that the networks take.

    Args:
        picture: uint8 [H, W, 3].
        size: side S in pixels.

    Returns:
        uint8 [S, S, 3], the caller's own.
    """
    # Each side by itself: what is made smaller is averaged, however wide a picture is.
    height, width = (min(side, size) for side in picture.shape[:2])
    reduced = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    resized = cv2.resize(reduced, (size, size), interpolation=cv2.INTER_CUBIC)
    return resized.astype(np.uint8, copy=False)


class WholeSession(VideoSession):
    """Turns each frame as a whole into a cartoon of the same size, and steadies the label.

    Args:
        cascade: transfer generator and recognizer.
        size: side of the square that the networks take, in pixels.
        color: order of the channels of the frames taken and the pictures given.
        continuous: whether each frame follows the one before; if not, each stands for itself.
    """

    def __init__(
        self, cascade: Cascade, *, size: int, color: Color = "bgr", continuous: bool = True
    ) -> None:
        super().__init__(color)
        self._cascade, self._size = cascade, size
        self._continuous = continuous
        self._before: Steadied | None = None
        self._shape: tuple[int, ...] = ()
        # Of the picture, or of all of a video, whose frames show one thing.
        self._track = 0

    def look(self, picture: Picture, stamp: FrameStamp, *, due: bool = False) -> Look:  # noqa: ARG002
        """Looks for nothing: every frame is covered whole."""
        now = perf_counter()
        return Look(picture, (), stamp, now, now)

    def cover(self, look: Look) -> Result:
        """Makes a cartoon of the frame; errors as `VideoSession.cover`."""
        passed = self._passed(look.stamp)
        # Frames of another size, as of a camera that was turned, show something else.
        before = None
        if self._continuous and look.picture.shape == self._shape:
            before = self._before
        if before is None:
            self._track += 1
        self._shape = look.picture.shape
        result, self._before = whole_result(
            look.picture,
            self._cascade,
            self._size,
            self.color,
            look.stamp,
            self._track,
            before,
            passed,
        )
        return result


def whole_result(
    picture: Picture,
    cascade: Cascade,
    size: int,
    color: Color,
    stamp: FrameStamp | None = None,
    track: int | None = None,
    before: Steadied | None = None,
    passed: float = 0.0,
) -> tuple[Result, Steadied]:
    """Turns a picture as a whole into a cartoon of the same size, and reads the label from it.

    Args:
        picture: uint8 [H, W, 3], BGR; not kept.
        cascade: transfer generator and recognizer.
        size: side of the square that they take, in pixels.
        color: order of the channels of the pictures given.
        stamp: which frame of a video it is; None of a picture.
        track: number for the result's `Face`; None of a picture.
        before: what was read from the frame before.
        passed: seconds since then.

    Returns:
        The result, with one `Face` that is all of the picture and has no landmarks; and what was
        read, for the next frame.

    Raises:
        EngineError: the engine failed or is closed.
    """
    start = perf_counter()
    crop = whole_crop(picture, size)
    aligned = perf_counter()
    cascaded = cascade(crop[np.newaxis])
    recognized = perf_counter()
    read = Steadied(cascaded.cartoons[0], cascaded.recognitions[0].probabilities)
    read = read.after(before, passed)
    label, confidence = read.likeliest
    height, width = picture.shape[:2]
    cartoon = read.cartoon_in(color)
    image = cv2.resize(cartoon, (width, height), interpolation=cv2.INTER_CUBIC)
    face = Face(
        (0, 0, width, height),
        label,
        confidence,
        dict(read.probabilities),
        cartoon,
        np.zeros((0, 2), np.float32),
        track,
    )
    end = perf_counter()
    timings = cascaded.timings(0.0, aligned - start, recognized - aligned, end - recognized)
    return Result((face,), image.astype(np.uint8, copy=False), timings, color, stamp), read
