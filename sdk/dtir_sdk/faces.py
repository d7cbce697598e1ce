"""Finds faces, aligns them to the model's crop, and sets the cartoon back into the frame.

Training uses the same functions, so that a model sees exactly the crops that it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dtir_sdk.checks import check_whole
from dtir_sdk.errors import EngineError, PictureError
from dtir_sdk.files import reason
from dtir_sdk.pictures import check_picture
from dtir_sdk.yunet import YuNet

try:
    import dtir_ext
except ImportError as error:
    if error.name != "dtir_ext":
        raise EngineError(
            f"dtir_ext is installed and cannot be loaded ({reason(error)}): install it again for "
            "this Python, or remove it with `pip uninstall dtir-ext`"
        ) from error
    _EXTENDED = False
else:
    _EXTENDED = True

Frame = NDArray[np.uint8]

# What cuts faces out and sets cartoons in. The results are the same, within 1 of 255.
CROPPED_BY = f"dtir_ext {dtir_ext.__version__}" if _EXTENDED else "OpenCV"

# Mean landmarks of CelebA-HQ faces cut out with their hair (eyes, nose tip, mouth corners, in
# the order in which YuNet gives them), as a share of the side of the square crop.
TEMPLATE: NDArray[np.float32] = np.array(
    [[0.3724, 0.4766], [0.6238, 0.4762], [0.5004, 0.6283], [0.3940, 0.7248], [0.6039, 0.7245]],
    dtype=np.float32,
)

# The detector finds nothing in less, in pixels.
_SHORTEST_SIDE = 16


@dataclass(frozen=True)
class FoundFace:
    """A face in a frame.

    Attributes:
        box: x, y, width, height in pixels, clipped to the frame.
        landmarks: float32 [5, 2], x and y in pixels: the eye at the left of the picture, the eye
            at the right, nose tip, mouth corner at the left, mouth corner at the right.
        confidence: the detector's score in [0, 1].
    """

    box: tuple[int, int, int, int]
    landmarks: NDArray[np.float32]
    confidence: float


class FaceFinder:
    """Finds faces with YuNet.

    One instance may be shared by threads.

    Args:
        confidence: least score of a face, in [0, 1].
        longest_side: frames whose longer side exceeds this many pixels are reduced to it for
            the search only. Larger finds smaller faces and takes longer; 16 or more.
        at_once: how many threads of yours may search at a time; more wait.
        threads: CPU threads of a search; None takes all cores for one at a time, and one core for
            each of several.

    Raises:
        BundleError: the detector's file is missing.
        ConfigurationError: an argument is out of range.
        EngineError: OpenVINO cannot load the detector.
    """

    def __init__(
        self,
        confidence: float = 0.6,
        longest_side: int = 640,
        at_once: int = 1,
        threads: int | None = None,
    ) -> None:
        check_whole("longest_side", longest_side, _SHORTEST_SIDE)
        self._detector = YuNet(confidence, at_once, threads)
        self._longest_side = longest_side

    def find(self, frame: NDArray[Any]) -> tuple[FoundFace, ...]:
        """Finds the faces of a frame, the largest first.

        Args:
            frame: uint8 [H, W, 3], BGR.

        Returns:
            The faces whose box overlaps the frame; empty where there is none.

        Raises:
            PictureError: the frame has another type or shape.
            EngineError: it was made before this process was forked.
        """
        picture = check_picture(frame)
        height, width = picture.shape[:2]
        scale = min(1.0, self._longest_side / max(height, width))
        if scale < 1.0:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(
                np.uint8, copy=False
            )
        if min(picture.shape[:2]) < _SHORTEST_SIDE:
            return ()
        found = []
        for row in self._detector.detect(picture):
            left, top, right, bottom = (
                max(0, round(float(row[0] / scale))),
                max(0, round(float(row[1] / scale))),
                min(width, round(float((row[0] + row[2]) / scale))),
                min(height, round(float((row[1] + row[3]) / scale))),
            )
            if right > left and bottom > top:
                landmarks = (row[4:14].reshape(5, 2) / scale).astype(np.float32)
                box = (left, top, right - left, bottom - top)
                found.append(FoundFace(box, landmarks, float(row[14])))
        return tuple(sorted(found, key=lambda face: -face.box[2] * face.box[3]))


def alignment(landmarks: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Computes the similarity transform that carries landmarks onto the crop's template.

    Args:
        landmarks: float32 [5, 2] in pixels of the frame.
        size: side of the square crop in pixels.

    Returns:
        float64 [2, 3], frame pixels to crop pixels, least squares over the five points.
    """
    # In closed form, over complex numbers: a general solver would wake the BLAS threads.
    places = landmarks[:, 0].astype(np.complex128) + 1j * landmarks[:, 1]
    goals = (TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]) * size
    centre, goal = places.mean(), goals.mean()
    away = places - centre
    spread = max(float(np.vdot(away, away).real), 1e-12)
    turn = complex(np.vdot(away, goals - goal)) / spread
    move = goal - turn * centre
    return np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])


def crop_face(frame: NDArray[Any], transform: NDArray[np.float64], size: int) -> Frame:
    """Cuts the aligned square out of a frame; what lies beyond the frame repeats its edge.

    Args:
        frame: uint8 [H, W, 3].
        transform: float64 [2, 3] from `alignment`.
        size: side of the crop in pixels.

    Returns:
        uint8 [size, size, 3], the caller's own.

    Raises:
        PictureError: the frame has another type or shape, or the transform cannot be inverted, as
            where all landmarks coincide.
        ConfigurationError: `size` is no whole number of 1 or more.
    """
    picture = check_picture(frame)
    _check_transform(transform)
    check_whole("size", size)
    if not _EXTENDED:
        return crop_face_with_opencv(picture, transform, size)
    crop: Frame = dtir_ext.crop_faces(picture, transform[np.newaxis], size)[0]
    return crop


def crop_faces(frame: NDArray[Any], transforms: Sequence[NDArray[np.float64]], size: int) -> Frame:
    """Cuts several aligned squares out of a frame, as `crop_face` does: uint8 [N, S, S, 3]."""
    crops = np.empty((len(transforms), size, size, 3), np.uint8)
    for crop, transform in zip(crops, transforms, strict=True):
        crop[:] = crop_face(frame, transform, size)
    return crops


def paste_face(frame: Frame, cartoon: Frame, transform: NDArray[np.float64]) -> None:
    """Blends a cartoon over its face, in place; only the outermost rim is see-through.

    Args:
        frame: uint8 [H, W, 3], written to.
        cartoon: uint8 [S, S, 3], same colour order as the frame.
        transform: float64 [2, 3], the one that the face was cut out with.

    Raises:
        PictureError: the transform cannot be inverted, as where all landmarks coincide.
    """
    _check_transform(transform)
    if not _EXTENDED:
        paste_face_with_opencv(frame, cartoon, transform)
        return
    packed = _with_packed_rows(frame)
    cartoons = np.ascontiguousarray(cartoon)[np.newaxis]
    dtir_ext.paste_faces(packed, cartoons, transform[np.newaxis])
    if packed is not frame:
        frame[:] = packed


def crop_face_with_opencv(frame: Frame, transform: NDArray[np.float64], size: int) -> Frame:
    """`crop_face` by OpenCV alone: the reference that `dtir_ext` is tested against."""
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    left, top, right, bottom = _covered(transform, size, frame.shape)
    if scale < 0.5 and right > left and bottom > top:
        # Bilinear sampling alone would skip pixels of a large face: average them first.
        region = frame[top:bottom, left:right]
        width = max(1, round(region.shape[1] * scale * 1.5))
        height = max(1, round(region.shape[0] * scale * 1.5))
        reduced = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
        stretch_x, stretch_y = region.shape[1] / width, region.shape[0] / height
        # Pixel centres: reduced x -> frame x is (x + 0.5) * stretch - 0.5 + left.
        to_frame = np.array(
            [
                [stretch_x, 0, 0.5 * stretch_x - 0.5 + left],
                [0, stretch_y, 0.5 * stretch_y - 0.5 + top],
                [0, 0, 1],
            ]
        )
        frame, transform = reduced.astype(np.uint8, copy=False), transform @ to_frame
    crop = cv2.warpAffine(
        frame, transform, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return crop.astype(np.uint8, copy=False)


def paste_face_with_opencv(frame: Frame, cartoon: Frame, transform: NDArray[np.float64]) -> None:
    """`paste_face` by OpenCV alone: the reference that `dtir_ext` is tested against."""
    size = cartoon.shape[0]
    left, top, right, bottom = _covered(transform, size, frame.shape)
    if right <= left or bottom <= top:
        return
    shifted = transform @ np.array([[1.0, 0, left], [0, 1.0, top], [0, 0, 1.0]])
    target = (right - left, bottom - top)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    picture = cv2.warpAffine(cartoon, shifted, target, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(_feathered_square(size), shifted, target, flags=flags)
    region = frame[top:bottom, left:right]
    region[:] = cv2.blendLinear(picture, region, cover, 1.0 - cover)


def _check_transform(transform: NDArray[np.float64]) -> None:
    a, b, x, c, d, y = transform.ravel().tolist()
    if not math.isfinite(a + b + x + c + d + y) or a * d == b * c:
        raise PictureError("a face's place in the frame is not finite or its landmarks coincide")


def _with_packed_rows(frame: Frame) -> Frame:
    """The frame itself, unless its pixels do not lie side by side: then a copy."""
    packed = frame.strides[1:] == (3, 1) and frame.strides[0] >= 3 * frame.shape[1]
    return frame if packed else np.ascontiguousarray(frame)


def _covered(
    transform: NDArray[np.float64], size: int, shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the frame's pixels under the crop."""
    inverse = cv2.invertAffineTransform(transform)
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ inverse.T
    low = np.floor(corners.min(axis=0)).astype(int) - 1
    high = np.ceil(corners.max(axis=0)).astype(int) + 1
    return (
        max(0, int(low[0])),
        max(0, int(low[1])),
        min(shape[1], int(high[0])),
        min(shape[0], int(high[1])),
    )


@lru_cache(maxsize=8)
def _feathered_square(size: int) -> NDArray[np.float32]:
    """Opacity float32 [size, size]: 1 inside, falling to 0 over the outermost 6% of the side."""
    rim = max(1.0, 0.06 * size)
    distance = np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5)
    ramp = np.clip(distance / rim, 0.0, 1.0).astype(np.float32)
    square: NDArray[np.float32] = np.minimum(ramp[:, None], ramp[None, :])
    return square
