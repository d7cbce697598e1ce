"""The face detector YuNet (Wu et al., 2023; OpenCV Zoo, MIT licence), run by OpenVINO.

The same network and the same answers as OpenCV's `FaceDetectorYN`, in about half its time.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dtir_sdk.checks import check_whole, is_number
from dtir_sdk.engines.base import check_not_forked
from dtir_sdk.engines.openvino import core, kept_or_compiled, package
from dtir_sdk.errors import BundleError, ConfigurationError, EngineError
from dtir_sdk.files import reason

if TYPE_CHECKING:
    import openvino

# Sides, in pixels, of the cells of its three grids.
_STRIDES = (8, 16, 32)
# Boxes that share more of their union than this are one face.
_OVERLAP = 0.3
# As OpenCV: candidates before overlapping ones are dropped, and a face yields several.
_MOST = 5000


class YuNet:
    """Finds faces in pictures of any size.

    One instance may be shared by threads.

    Args:
        confidence: least score of a face, in [0, 1].
        at_once: how many calls may run at a time; others wait.
        threads: CPU threads of a call; None takes all cores for one call at a time, and one core
            for each of several.

    Raises:
        BundleError: the network's file is missing.
        ConfigurationError: `confidence` is not in [0, 1], or `at_once` or `threads` no whole
            number of 1 or more.
        EngineError: OpenVINO cannot load it.
    """

    def __init__(self, confidence: float, at_once: int = 1, threads: int | None = None) -> None:
        if threads is not None:
            check_whole("threads", threads)
        if not (is_number(confidence) and 0 <= confidence <= 1):
            raise ConfigurationError(f"confidence must be a number in [0, 1], not {confidence!r}")
        check_whole("at_once", at_once)
        if threads is None and at_once > 1:
            threads = 1
        path = Path(__file__).parent / "models/face_detector/yunet_face_detector.onnx"
        if not path.is_file():
            raise BundleError(f"{path} is missing: reinstall dtir")
        self._confidence = confidence
        self._process = os.getpid()
        # A network each: OpenVINO's streams, which share one, gave wrong answers for this one.
        self._idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(at_once):
            self._idle.put(_compiled(path, threads).create_infer_request())

    def detect(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Finds the faces of a picture.

        Args:
            picture: uint8 [H, W, 3], BGR.

        Returns:
            float32 [N, 15], the surest first: left, top, width, height of the box, x and y of
            five landmarks (the order of `FoundFace`), all in pixels, and the score in [0, 1].

        Raises:
            EngineError: it was made before this process was forked.
        """
        check_not_forked(self._process)
        openvino = package()
        height, width = picture.shape[:2]
        beyond = ((0, -height % _STRIDES[-1]), (0, -width % _STRIDES[-1]), (0, 0))
        padded = np.ascontiguousarray(np.pad(picture, beyond) if np.any(beyond) else picture)
        # OpenVINO shares only memory that it might write to; a read-only array is copied.
        shared = padded.flags.writeable
        request = self._idle.get()
        try:
            request.set_input_tensor(openvino.Tensor(padded[np.newaxis], shared_memory=shared))
            request.infer()
            grids = [(stride, padded.shape[1] // stride) for stride in _STRIDES]
            faces = np.concatenate([self._faces_of_grid(request, *grid) for grid in grids])
        finally:
            self._idle.put(request)
        boxes: Any = faces[:, :4].astype(int).tolist()
        kept = cv2.dnn.NMSBoxes(
            boxes, faces[:, 14].tolist(), self._confidence, _OVERLAP, 1.0, _MOST
        )
        return faces[np.asarray(kept, np.int64)]

    def _faces_of_grid(
        self, request: openvino.InferRequest, stride: int, columns: int
    ) -> NDArray[np.float32]:
        """Reads the rows of `detect` out of a grid's answers, where the score suffices."""

        def answer(name: str) -> NDArray[np.float32]:
            values: NDArray[np.float32] = request.get_tensor(f"{name}_{stride}").data[0]
            return values

        score = np.sqrt(answer("cls")[:, 0].clip(0, 1) * answer("obj")[:, 0].clip(0, 1))
        sure = np.flatnonzero(score >= self._confidence)
        cell = np.stack([sure % columns, sure // columns], axis=1).astype(np.float32)
        box, landmarks = answer("bbox")[sure], answer("kps")[sure]
        side = np.exp(box[:, 2:]) * stride
        corner = (cell + box[:, :2]) * stride - side / 2
        points = (np.tile(cell, 5) + landmarks) * stride
        return np.hstack([corner, side, points, score[sure, np.newaxis]])


def _compiled(path: Path, threads: int | None) -> openvino.CompiledModel:
    """The network for uint8 pictures [1, H, W, 3]."""
    # bf16 would move landmarks, and training would see other crops than its users.
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        options |= {"INFERENCE_NUM_THREADS": str(threads), "ENABLE_CPU_PINNING": "NO"}
    network = path.read_bytes()

    def compile() -> openvino.CompiledModel:
        openvino = package()
        from openvino.preprocess import PrePostProcessor

        try:
            model = core().read_model(network)
            model.reshape([1, 3, -1, -1])
            bytes_in = PrePostProcessor(model)
            bytes_in.input().tensor().set_element_type(openvino.Type.u8)
            bytes_in.input().tensor().set_layout(openvino.Layout("NHWC"))
            bytes_in.input().model().set_layout(openvino.Layout("NCHW"))
            return core().compile_model(bytes_in.build(), "CPU", options)
        except RuntimeError as error:
            raise EngineError(
                f"openvino cannot load {path} ({reason(error)}): reinstall dtir"
            ) from error

    name = f"{path.name} {hashlib.sha256(network).hexdigest()}"
    return kept_or_compiled(name, options, compile)
