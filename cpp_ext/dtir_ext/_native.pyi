from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

class DeviceArray(Protocol):
    """Anything in the memory of a GPU that says where: see `dtir_ext.cuda`."""

    @property
    def shape(self) -> Sequence[int]: ...

cuda_architectures: str

def crop_faces(
    frame: NDArray[np.uint8],
    transforms: NDArray[np.float64],
    size: int,
    *,
    swap_channels: bool = False,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Cuts squares out of a frame; what lies beyond the frame repeats its edge.

    A face that is reduced to less than half is averaged first, then sampled bilinearly. Does not
    hold the GIL while it computes.

    Args:
        frame: uint8 [H, W, 3], 1 to 32767 pixels a side; pixels and rows packed, though rows may
            lie apart, as in a view `frame[top:bottom, left:right]`.
        transforms: float64 [N, 2, 3], frame pixels to crop pixels: rotation, scale and shift.
        size: side S of the crops in pixels.
        swap_channels: BGR in, RGB out, or the other way round.
        out: uint8 [N, S, S, 3], contiguous, to write to; None makes a new one.

    Returns:
        uint8 [N, S, S, 3]: `out`, where it was given.

    Raises:
        TypeError: an argument is no array in host memory, or of another dtype.
        ValueError: a wrong shape or layout, a transform that cannot be inverted.
    """

def paste_faces(
    frame: NDArray[np.uint8],
    cartoons: NDArray[np.uint8],
    transforms: NDArray[np.float64],
    *,
    swap_channels: bool = False,
) -> None:
    """Blends cartoons over their faces, in place and in their order; only the rim is see-through.

    Does not hold the GIL while it computes.

    Args:
        frame: uint8 [H, W, 3], as for `crop_faces`, written to.
        cartoons: uint8 [N, S, S, 3], contiguous.
        transforms: float64 [N, 2, 3], those that the faces were cut out with.
        swap_channels: the cartoons are RGB and the frame is BGR, or the other way round.

    Raises:
        TypeError: an argument is no array in host memory, or of another dtype.
        ValueError: a wrong shape or layout, a transform that cannot be inverted.
    """

def device_crop_faces(
    frame: DeviceArray,
    transforms: NDArray[np.float64],
    out: DeviceArray,
    *,
    swap_channels: bool = False,
    stream: int = 0,
) -> None:
    """`dtir_ext.crop_faces` on the GPU; `transforms` lie in host memory.

    Args:
        frame: uint8 [H, W, 3] on the current GPU, as for `dtir_ext.crop_faces`.
        transforms: float64 [N, 2, 3] in host memory.
        out: uint8 [N, S, S, 3] on the current GPU, contiguous, written to.
        swap_channels: BGR in, RGB out, or the other way round.
        stream: a `cudaStream_t` as a number; 0 is the default stream.

    Raises:
        TypeError: an argument is no array in GPU memory, or of another dtype.
        ValueError: a wrong shape or layout, another GPU's memory, a transform that cannot be
            inverted.
        RuntimeError: built without CUDA, no GPU, or a launch failed.
    """

def device_paste_faces(
    frame: DeviceArray,
    cartoons: DeviceArray,
    transforms: NDArray[np.float64],
    *,
    swap_channels: bool = False,
    stream: int = 0,
) -> None:
    """`dtir_ext.paste_faces` on the GPU; `transforms` lie in host memory.

    Args:
        frame: uint8 [H, W, 3] on the current GPU, written to.
        cartoons: uint8 [N, S, S, 3] on the current GPU, contiguous.
        transforms: float64 [N, 2, 3] in host memory.
        swap_channels: the cartoons are RGB and the frame is BGR, or the other way round.
        stream: a `cudaStream_t` as a number; 0 is the default stream.

    Raises:
        TypeError: an argument is no array in GPU memory, or of another dtype.
        ValueError: a wrong shape or layout, another GPU's memory, a transform that cannot be
            inverted.
        RuntimeError: built without CUDA, no GPU, or a launch failed.
    """
