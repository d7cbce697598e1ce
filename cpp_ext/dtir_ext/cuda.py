"""Crop and paste for pictures in the memory of a GPU.

Arrays are anything with `__cuda_array_interface__` (PyCUDA's GPUArray, CuPy, torch) or DLPack, on
the current GPU. Calls enqueue their work on `stream` and return at once. The caller keeps the
arrays alive until it is done, and orders it after the work that fills them.
"""

from dtir_ext._native import cuda_architectures
from dtir_ext._native import device_crop_faces as crop_faces
from dtir_ext._native import device_paste_faces as paste_faces

__all__ = ["ARCHITECTURES", "crop_faces", "paste_faces"]

ARCHITECTURES = tuple(cuda_architectures.split())
"""What the kernels were compiled for, such as ("75", "90"); empty where built without CUDA."""
