"""A training step as a CUDA graph: launched at once, where it is thousands of small kernels.

Launched one by one from Python, the kernels of small networks take longer to launch than to
compute. A CUDA graph replays them with one launch; it fixes the shapes and where every tensor
lies, and what Python decides along the way (PyTorch, "CUDA semantics", whole-network capture).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

# Before it captures: libraries choose their kernels, and optimizers make their state.
WARM_UP = 3


class Captured(Generic[Result]):
    """A function of tensors on a GPU that is captured as a graph at its fourth call.

    The calls before are carried out as they are, so that each call counts, and the results are
    those of the function but for rounding.

    Args:
        function: to capture. It must not read a tensor's values or make tensors from others than
            the GPU's, and must decide everything else alike at each call.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self._function = function
        self._stream = torch.cuda.Stream()
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: tuple[Tensor, ...] = ()
        self._result: Result

    def __call__(self, *tensors: Tensor) -> Result:
        """Calls the function with tensors of the same shapes and memory order as ever.

        Returns:
            What it returns; tensors among it are overwritten by the next call.
        """
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._as_it_is(tensors)
        if self._graph is None:
            self._graph = self._capture(tensors)
        for given, tensor in zip(self._given, tensors, strict=True):
            given.copy_(tensor)
        self._graph.replay()
        return self._result

    def _as_it_is(self, tensors: tuple[Tensor, ...]) -> Result:
        """Aside from the default stream, which cannot be captured: gradients stay with a stream."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = self._function(*tensors)
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def _capture(self, tensors: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        self._given = tuple(tensor.clone() for tensor in tensors)
        graph = torch.cuda.CUDAGraph()
        # Batches are made in another thread meanwhile, which may use the GPU as it likes.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._result = self._function(*self._given)
        return graph
