"""Composes the picture that is safe to show: every face covered, its surroundings as asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dtir_sdk.drawing import neutral_card
from dtir_sdk.faces import paste_face
from dtir_sdk.pictures import Picture

Surround = Literal["keep", "blur", "blank"]

# A blurred frame keeps this many pixels on its longer side: people are shapes then.
_BLURRED_SIDE = 24
# A cover is larger than its crop, downwards for the most part: the crop's rim, which is
# see-through, would otherwise touch a long chin, and a mouth found too high would bare the chin.
_MARGIN = 1.2
_CENTRE, _BROWS = (0.5, 0.5), (0.5, 0.4)


@dataclass(frozen=True, eq=False)
class Cover:
    """What is laid over a face.

    Attributes:
        transform: float64 [2, 3], frame pixels to crop pixels, as from `faces.alignment`.
        cartoon: uint8 [S, S, 3]; None covers with grey.
        growth: how many times larger than usual it is, about the same centre, where the face is
            not known to be just there.
    """

    transform: NDArray[np.float64]
    cartoon: Picture | None
    growth: float = 1.0


def compose(picture: Picture, covers: Sequence[Cover], surround: Surround, size: int) -> Picture:
    """Lays covers over the faces of a frame.

    Args:
        picture: uint8 [H, W, 3], not written to.
        covers: one for every face; earlier ones, the larger faces, lie on top.
        surround: what to do with the frame around them: `keep` it, `blur` it beyond recognition
            or make it `blank`.
        size: side of the crops in pixels.

    Returns:
        uint8 [H, W, 3], the caller's own; a grey card where no face that is covered lies in the
        frame, since one may have been missed.
    """
    if not any(_reaches_into(picture, cover.transform, size) for cover in covers):
        return neutral_card(*picture.shape[:2])
    image = _surroundings(picture, surround)
    for cover in reversed(covers):
        cartoon = cover.cartoon
        if cartoon is None:
            cartoon = neutral_card(size, size, "")
        transform = _grown(cover.transform, cover.growth, _CENTRE, size)
        paste_face(image, cartoon, _grown(transform, _MARGIN, _BROWS, size))
    return image


def _reaches_into(picture: Picture, transform: NDArray[np.float64], size: int) -> bool:
    """Whether any of a crop lies in the frame."""
    height, width = picture.shape[:2]
    inverse = cv2.invertAffineTransform(transform).astype(np.float64, copy=False)
    # Two rectangles are apart if they are so along the sides of one of them.
    return _overlaps(inverse, (size, size), (width, height)) and _overlaps(
        transform, (width, height), (size, size)
    )


def _overlaps(
    transform: NDArray[np.float64], moved: tuple[int, int], other: tuple[int, int]
) -> bool:
    width, height = moved
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
    places = corners @ transform.T
    return bool((places.max(axis=0) > 0).all() and (places.min(axis=0) < other).all())


def _grown(
    transform: NDArray[np.float64], factor: float, fixed: tuple[float, float], size: int
) -> NDArray[np.float64]:
    """The transform of a crop of `factor` times the side; `fixed`, a share of it, stays."""
    grown = transform / factor
    grown[:, 2] += (1 - 1 / factor) * size * np.array(fixed)
    return grown


def _surroundings(picture: Picture, surround: Surround) -> Picture:
    height, width = picture.shape[:2]
    if surround == "keep":
        return picture.copy()
    if surround == "blank":
        return neutral_card(height, width, "")
    scale = min(1.0, _BLURRED_SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    reduced = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    blurred = cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR)
    return blurred.astype(np.uint8, copy=False)
