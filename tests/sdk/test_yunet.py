from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

import dtir_sdk.yunet
from dtir_sdk.errors import BundleError, ConfigurationError, EngineError
from dtir_sdk.yunet import YuNet

CONFIDENCE = 0.6


@pytest.fixture(scope="module")
def detector():
    return YuNet(CONFIDENCE)


def by_opencv(picture: np.ndarray) -> np.ndarray:
    path = Path(dtir_sdk.yunet.__file__).parent / "models/face_detector/yunet_face_detector.onnx"
    height, width = picture.shape[:2]
    peer = cv2.FaceDetectorYN.create(str(path), "", (width, height), CONFIDENCE)
    rows = peer.detect(picture)[1]
    return np.zeros((0, 15), np.float32) if rows is None else rows


@pytest.mark.parametrize("size", [(640, 480), (333, 401), (96, 130), (31, 33), (17, 500)])
def test_finds_what_opencv_finds(detector, portrait, size):
    picture = cv2.resize(portrait, size)
    expected, found = by_opencv(picture), detector.detect(picture)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=0.01)


def test_finds_several_faces_as_opencv_does(detector, portrait):
    small = cv2.resize(portrait, (200, 240))
    turned = cv2.warpAffine(small, cv2.getRotationMatrix2D((100, 120), 20, 0.8), (200, 240))
    picture = np.hstack([small, turned, small[:, ::-1]])
    expected, found = by_opencv(picture), detector.detect(picture)
    assert len(found) == 3
    assert np.allclose(found, expected, atol=0.01)


def test_in_a_crowd_no_face_is_left_out(detector, portrait):
    face = cv2.resize(portrait[40:360, 90:410], (64, 64), interpolation=cv2.INTER_AREA)
    crowd = np.tile(face, (14, 14, 1))
    assert len(detector.detect(crowd)) == len(by_opencv(crowd)) > 150


def test_where_there_is_no_face_there_are_no_rows(detector):
    assert detector.detect(np.full((100, 100, 3), 90, np.uint8)).shape == (0, 15)


def test_a_picture_that_is_a_view_is_read_as_it_looks(detector, portrait):
    mirrored = cv2.resize(portrait, (320, 320))[:, ::-1]
    assert np.array_equal(detector.detect(mirrored), detector.detect(mirrored.copy()))


def test_a_picture_that_must_not_be_written_to(detector, portrait):
    picture = cv2.resize(portrait, (320, 320))
    kept = np.frombuffer(picture.tobytes(), np.uint8).reshape(picture.shape)
    assert np.array_equal(detector.detect(kept), detector.detect(picture))


# More than once: with OpenVINO's streams about every third one was wrong, fresh or from the cache.
@pytest.mark.parametrize("at_once", [1, 3, 3, 3, 4, 4, 4])
def test_threads_may_share_it(detector, portrait, at_once):
    pictures = [cv2.resize(portrait, (side, side)) for side in (160, 224, 320)] * 4
    alone = [detector.detect(picture) for picture in pictures]
    shared = YuNet(CONFIDENCE, at_once)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(shared.detect, pictures))
    assert all(np.array_equal(*pair) for pair in zip(alone, together, strict=True))


@pytest.mark.parametrize("threads", [None, 1, 2])
@pytest.mark.parametrize("at_once", [1, 2])
def test_it_takes_as_many_threads_as_it_may(monkeypatch, portrait, at_once, threads):
    asked = []

    def compiled(_, options, compile):
        asked.append(options.get("INFERENCE_NUM_THREADS"))
        return compile()

    monkeypatch.setattr("dtir_sdk.yunet.kept_or_compiled", compiled)
    assert len(YuNet(CONFIDENCE, at_once, threads).detect(portrait)) == 1
    by_default = None if at_once == 1 else "1"
    assert asked == [by_default if threads is None else str(threads)] * at_once


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_no_number_of_threads(threads):
    with pytest.raises(ConfigurationError, match="threads must be a whole number of 1 or more"):
        YuNet(CONFIDENCE, threads=threads)


def test_without_its_file_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("dtir_sdk.yunet.__file__", str(tmp_path / "yunet.py"))
    with pytest.raises(BundleError, match=r"yunet_face_detector\.onnx is missing: reinstall dtir"):
        YuNet(CONFIDENCE)


def test_a_file_that_is_no_network_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("dtir_sdk.yunet.__file__", str(tmp_path / "yunet.py"))
    monkeypatch.setenv("DTIR_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "models/face_detector/yunet_face_detector.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a network")
    with pytest.raises(EngineError, match=r"yunet_face_detector\.onnx .*: reinstall dtir"):
        YuNet(CONFIDENCE)
