"""Whether a photograph stands in two sets, cut out, scaled or retouched otherwise in each.

Sets of faces are made from one another: CelebA-HQ is made from CelebA, and has some photographs
twice. What was trained on must not be called unseen because it has another name.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import Progress

_COARSE, _FINE = 32, 64
# The square of an aligned crop that the face itself fills: left, top and side as shares.
_LEFT, _TOP, _WIDTH = 0.19, 0.265, 0.62
# Landmarks that were found in another resolution lie elsewhere: in coarse pixels.
_SHIFTS = range(-2, 3)
# So many of the others are looked at closely, the likest first.
_CLOSE = 6
# Correlation of two registered faces above which they are one photograph: of CelebA's pictures and
# CelebA-HQ's, 57 pairs lie above it and are, by eye, the same; from 0.977 on strangers appear.
_SAME = 0.98
_STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-5)
_BLUR = 5


def are_among(
    pictures: NDArray[np.uint8], others: NDArray[np.uint8], task: str
) -> NDArray[np.bool_]:
    """Tells which photographs are among others, too.

    Faces are compared, without hair and background, once brought onto each other (Evangelidis and
    Psarakis, 2008: enhanced correlation coefficient), so that neither the cut nor the brightness
    counts.

    Args:
        pictures: uint8 [N, S, S, 3], BGR, with faces that were aligned.
        others: uint8 [M, S, S, 3], aligned in the same way.
        task: what the progress bar says.

    Returns:
        bool [N].
    """
    likest, shifts = _likest(_grey(pictures, _COARSE), _grey(others, _COARSE))
    faces, known = _grey(pictures, _FINE), _grey(others, _FINE)
    pairs = list(zip(faces, likest, shifts, strict=True))
    # `rich.progress.track` would leave the bar open after an error.
    with Progress(transient=True) as bar:
        same = [
            any(_same(face, known[other], shift) for other, shift in zip(near, moved, strict=True))
            for face, near, moved in bar.track(pairs, description=escape(task))
        ]
    return np.array(same, np.bool_)


def _grey(pictures: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Faces without what is around them, without colour: uint8 [N, side, side]."""
    left, top, width = (round(share * pictures.shape[1]) for share in (_LEFT, _TOP, _WIDTH))
    faces = pictures[:, top : top + width, left : left + width]
    grey = [cv2.cvtColor(each, cv2.COLOR_BGR2GRAY) for each in faces]
    reduced = [cv2.resize(each, (side, side), interpolation=cv2.INTER_AREA) for each in grey]
    return np.stack(reduced).astype(np.uint8, copy=False)


def _face(side: int) -> NDArray[np.uint8]:
    """255 where an aligned face is, without hair: uint8 [side, side]."""
    mask = np.zeros((side, side), np.uint8)
    centre, axes = (side // 2, round(0.55 * side)), (round(0.3 * side), round(0.39 * side))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1)
    return mask


def _likest(
    faces: NDArray[np.uint8], known: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Finds the known faces that each one correlates with most, however it is shifted.

    Returns:
        Their positions, int64 [N, K], and how far the face has to be shifted to lie on each, right
        and down, int64 [N, K, 2] in coarse pixels.
    """
    inside = _face(_COARSE) > 0
    most = _SHIFTS[-1]
    padded = np.pad(faces, ((0, 0), (most, most), (most, most)), mode="edge")
    goals = _normalised(known[:, inside]).T
    best = np.full((len(faces), len(known)), -1, np.float32)
    which = np.zeros(best.shape, np.uint8)
    shifts = [(right, down) for down in _SHIFTS for right in _SHIFTS]
    for number, (right, down) in enumerate(shifts):
        rows, columns = (slice(most - by, most - by + _COARSE) for by in (down, right))
        alike = _normalised(padded[:, rows, columns][:, inside]) @ goals
        better = alike > best
        np.copyto(best, alike, where=better)
        np.copyto(which, number, where=better)
    count = min(_CLOSE, len(known))
    likest = np.argpartition(-best, count - 1, axis=1)[:, :count]
    return likest, np.array(shifts)[np.take_along_axis(which, likest, axis=1)]


def _normalised(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows whose products are correlations."""
    values = pixels.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    # A plain surface is like nothing.
    values /= np.linalg.norm(values, axis=1, keepdims=True).clip(1e-6)
    return values


def _same(face: NDArray[np.uint8], other: NDArray[np.uint8], shift: NDArray[np.int64]) -> bool:
    """Registers two faces uint8 [64, 64], the first one shifted so far, and compares them."""
    start = np.eye(2, 3, dtype=np.float32)
    start[:, 2] = shift * (_FINE // _COARSE)
    try:
        alike, _ = cv2.findTransformECC(
            face, other, start, cv2.MOTION_AFFINE, _STEPS, _face(_FINE), _BLUR
        )
    except cv2.error:
        # They are so different that none can be brought onto the other.
        return False
    return alike > _SAME
