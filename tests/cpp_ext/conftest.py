from __future__ import annotations

import cv2
import pytest

from dtir_sdk.pictures import read_picture
from dtir_sdk.sources import SAMPLE_PORTRAIT


@pytest.fixture(scope="session")
def portrait():
    return read_picture(SAMPLE_PORTRAIT)


@pytest.fixture(scope="session")
def wide(portrait):
    """The portrait on a frame of 1920 x 1080."""
    return cv2.resize(portrait, (1920, 1080), interpolation=cv2.INTER_LINEAR)
