"""One graph, or two chained on the card, as the engines that the SDK knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from dtir_sdk.engines.base import (
    Array,
    Chain,
    Chained,
    Choice,
    Device,
    Engine,
    EngineInfo,
    Graph,
    Mode,
    Precision,
    Problem,
)
from dtir_sdk.engines.tensorrt import cuda as cuda_module
from dtir_sdk.engines.tensorrt.building import BuildOptions
from dtir_sdk.engines.tensorrt.cuda import Cuda
from dtir_sdk.engines.tensorrt.execution import Execution, Ran
from dtir_sdk.engines.tensorrt.library import (
    LibraryName,
    missing,
    needed_cuda,
    open_library,
)
from dtir_sdk.engines.tensorrt.loading import LoadedStage, arithmetic, load_stage
from dtir_sdk.engines.tensorrt.views import DeviceView, on_device, view
from dtir_sdk.errors import EngineError


def library_problem(name: LibraryName, device: Device) -> Problem | None:
    """Says why TensorRT cannot be had on a device, or None where it can."""
    if device != "cuda":
        return Problem(f"{name} does not run on {device}", "ask for cuda")
    problem = missing(name) or cuda_module.missing()
    if problem is not None:
        return problem
    found = cuda_module.look()
    if isinstance(found, Problem):
        return found
    needed = needed_cuda(name)
    if needed is not None and found.cuda_version[0] < needed:
        offered = ".".join(map(str, found.cuda_version))
        return Problem(
            f"the NVIDIA driver is too old for the {name} that is installed: it offers CUDA "
            f"{offered}, and {needed}.0 is needed",
            "update the driver",
        )
    return None


class _Loaded:
    """Graphs that were loaded to run one after the other."""

    def __init__(
        self, name: LibraryName, graphs: Sequence[Graph], choice: Choice, precision: Precision
    ) -> None:
        library = open_library(name)
        cuda = Cuda()
        try:
            loaded = [load_stage(library, cuda, graph, precision) for graph in graphs]
        except BaseException:
            cuda.close()
            raise
        self.execution = Execution(library, cuda, [each.stage for each in loaded])
        try:
            self._warm_up()
            with cuda.active():
                for each in loaded:
                    each.keep_kernels()
        except BaseException:
            self.execution.close()
            raise
        options = BuildOptions(tf32=precision != "f32", half=not cuda.gpu.slow_half)
        computed = dict.fromkeys(arithmetic(library, cuda.gpu, graph, options) for graph in graphs)
        graph_note = self.execution.no_graph
        launch = f", no CUDA graph: {graph_note}" if graph_note else ""
        self.info = EngineInfo(
            name,
            "cuda",
            cuda.gpu.name,
            f"{' and '.join(computed)}{launch}",
            f"{choice.reason}{_built(graphs, loaded)}",
        )

    def _warm_up(self) -> None:
        """Runs one picture until its CUDA graph is recorded, so that no frame waits for it."""
        tensor = self.execution.input()
        batch = np.zeros((1, *(side or 1 for side in tensor.shape[1:])), tensor.dtype)
        for _ in range(2):
            self.execution.run(batch)

    def source(self, batch: Any) -> Array | DeviceView:
        """The batch, as it is in host memory, or where it lies on the card."""
        if on_device(batch):
            return self._view(batch, 0, written=False)
        array: Array = np.asarray(batch)
        return array

    def target(self, array: Any, number: int) -> DeviceView:
        """An array on the card for the output of a stage."""
        if not on_device(array):
            raise EngineError("an output must be an array on the GPU: leave it out for a host one")
        return self._view(array, number + 1, written=True)

    def _view(self, array: Any, number: int, *, written: bool) -> DeviceView:
        execution = self.execution
        tensor = execution.output(number - 1) if number else execution.input()
        with execution.cuda.active():
            ordinal = execution.cuda.ordinal
            return view(array, tensor, execution.stream, ordinal, written=written)


class TensorRtEngine(Engine):
    """A graph in TensorRT.

    Built for this very card when first used, which takes minutes, and kept in the cache. May be
    shared by threads: calls are serialised. It lives in the CUDA context that is current when it
    is made (PyCUDA's, torch's), else in the first card's primary one; it may be called and closed
    in any thread, and leaves that thread's context as it was. An application that destroys its
    context closes the engine first.

    Args:
        graph: what to load.
        choice: why this engine.
        precision: `auto` is the file's own (FP32 may use TF32); `f32` is FP32 without TF32, of
            FP32 files only. bf16 cannot be had: the arithmetic is in the file.
        threads: must be None: the GPU has no CPU threads to count.
        mode: must be `latency`: on a GPU a batch runs as one anyway.

    Raises:
        BundleError: the graph's signature is wrong.
        EngineError: the engine cannot be built, kept, loaded or run here.
    """

    name: ClassVar[LibraryName] = "tensorrt"

    def __init__(
        self,
        graph: Graph,
        choice: Choice,
        precision: Precision,
        threads: int | None = None,  # noqa: ARG002  # refused by `load`
        mode: Mode = "latency",  # noqa: ARG002  # likewise
    ) -> None:
        self._loaded = _Loaded(self.name, [graph], choice, precision)
        super().__init__(self._loaded.info, graph.signature)

    def infer_into(self, batch: Any, output: Any) -> None:
        """Runs the graph and leaves the result on the card.

        Args:
            batch: as for `infer`; also an array on the card, read where it lies.
            output: [N, ...] on the card, of the graph's output type, C-contiguous: anything with
                `__cuda_array_interface__` or DLPack. It is complete when the call returns.

        Raises:
            EngineError: as `infer`; also where the output does not fit.
        """
        loaded = self._loaded

        def run(given: Any) -> Ran:
            return loaded.execution.run(loaded.source(given), [loaded.target(output, 0)])

        self._check_finite(self._run(run, batch).outputs[0])

    def _infer(self, batch: Array) -> Array:
        output = self._loaded.execution.run(self._loaded.source(batch)).outputs[0]
        assert output is not None
        return output

    def _release(self) -> None:
        self._loaded.execution.close()


class TensorRtChain(Chain):
    """Two graphs in TensorRT, chained on the card: one copy in, one launch, one copy out.

    Arguments, threads and contexts as for `TensorRtEngine`.

    Args:
        first: the graph that takes the batch.
        second: the graph that takes what the first one gives.
        choice: why this engine.
        precision: as for `TensorRtEngine`, as those that follow.
        threads: must be None.
        mode: must be `latency`.

    Raises:
        BundleError: a graph's signature is wrong.
        EngineError: the engines cannot be built, kept, loaded or run here.
    """

    name: ClassVar[LibraryName] = "tensorrt"

    def __init__(
        self,
        first: Graph,
        second: Graph,
        choice: Choice,
        precision: Precision,
        threads: int | None = None,  # noqa: ARG002  # refused by `load_chain`
        mode: Mode = "latency",  # noqa: ARG002  # likewise
    ) -> None:
        self._loaded = _Loaded(self.name, [first, second], choice, precision)
        super().__init__(self._loaded.info)

    def infer_into(
        self,
        batch: Any,
        first: Any,
        second: Any,
    ) -> tuple[float, float]:
        """Runs the chain and leaves both results on the card.

        Args:
            batch: as for `infer`; also an array on the card, read where it lies.
            first: for what the first graph gives, as for `TensorRtEngine.infer_into`.
            second: for what the second graph gives.

        Returns:
            Milliseconds of the first and of the second graph.

        Raises:
            EngineError: as `infer`; also where an output does not fit.
        """
        loaded = self._loaded

        def run(given: Any) -> Ran:
            targets = [loaded.target(first, 0), loaded.target(second, 1)]
            return loaded.execution.run(loaded.source(given), targets)

        ran = self._run(run, batch)
        self._check_finite(*ran.outputs)
        return ran.milliseconds[0], ran.milliseconds[1]

    def _infer(self, batch: Array) -> Chained:
        ran = self._loaded.execution.run(self._loaded.source(batch))
        first, second = ran.outputs
        assert first is not None
        assert second is not None
        return Chained(first, second, (ran.milliseconds[0], ran.milliseconds[1]))

    def _release(self) -> None:
        self._loaded.execution.close()


def _built(graphs: Sequence[Graph], loaded: Sequence[LoadedStage]) -> str:
    notes = [
        f"; built {graph.file} anew: {each.built}"
        for graph, each in zip(graphs, loaded, strict=True)
        if each.built is not None
    ]
    return "".join(notes)
