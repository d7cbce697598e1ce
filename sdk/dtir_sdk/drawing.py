"""Draws what people look at: the neutral card, boxes with labels, pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dtir_sdk.pictures import Picture

_GREY = 128
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def neutral_card(height: int, width: int, text: str = "no face") -> Picture:
    """Makes the grey card that is shown where the picture itself must not be.

    Args:
        height: in pixels.
        width: in pixels.
        text: a word or two in its middle.

    Returns:
        uint8 [height, width, 3].

    Examples:
        >>> neutral_card(2, 3, "").tolist()[0]
        [[128, 128, 128], [128, 128, 128], [128, 128, 128]]
    """
    card = np.full((height, width, 3), _GREY, np.uint8)
    scale = min(1.0, width / 320)
    (text_width, text_height), _ = cv2.getTextSize(text, _FONT, scale, 1)
    corner = ((width - text_width) // 2, (height + text_height) // 2)
    cv2.putText(card, text, corner, _FONT, scale, (200, 200, 200), 1, cv2.LINE_AA)
    return card


def label_box(picture: Picture, box: tuple[int, int, int, int], text: str) -> None:
    """Draws a box with a text above it, or within it at the upper rim, in place.

    Args:
        picture: uint8 [H, W, 3], written to.
        box: x, y, width, height in pixels.
        text: what to write.
    """
    x, y, width, height = box
    scale = max(0.4, min(picture.shape[:2]) / 900)
    thick = max(1, round(2 * scale))
    cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), (255, 255, 255), thick)
    (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, thick)
    top = max(0, y - text_height - below - 2)
    cv2.rectangle(
        picture, (x, top), (x + text_width + 4, top + text_height + below + 2), (255,) * 3, -1
    )
    baseline = (x + 2, top + text_height + 1)
    cv2.putText(picture, text, baseline, _FONT, scale, (0, 0, 0), thick, cv2.LINE_AA)


def side_by_side(rows: Sequence[Sequence[Picture]], captions: Sequence[str]) -> Picture:
    """Sets pictures into a table with a caption over every column.

    Args:
        rows: one or more rows of as many uint8 [S, S, 3] as there are captions.
        captions: the columns' names.

    Returns:
        uint8 [H, W, 3].

    Examples:
        >>> square = np.zeros((128, 128, 3), np.uint8)
        >>> side_by_side([[square, square]], ["photo", "cartoon"]).shape
        (284, 520, 3)
    """
    size = 256
    gap = 8
    header = np.full((20, len(captions) * (size + gap) - gap, 3), 255, np.uint8)
    for column, caption in enumerate(captions):
        corner = (column * (size + gap) + 4, 15)
        cv2.putText(header, caption, corner, _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    parts = [header]
    for row in rows:
        line = np.full((size + gap, header.shape[1], 3), 255, np.uint8)
        for column, picture in enumerate(row):
            left = column * (size + gap)
            enlarged = cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC)
            line[:size, left : left + size] = enlarged
        parts.append(line)
    return np.concatenate(parts)
