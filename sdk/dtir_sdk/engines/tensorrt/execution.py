"""Graphs chained on the card: one stream, one copy in, one copy out, one launch.

The first call with a batch size and addresses runs launch by launch, as TensorRT asks for after a
change of shape; the second is captured in a CUDA graph, which every later one launches whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dtir_sdk.batches import BatchRange
from dtir_sdk.engines.base import Array, Signature, Tensor
from dtir_sdk.engines.tensorrt.cuda import Cuda, DeviceMemory, PinnedArray
from dtir_sdk.engines.tensorrt.library import Library
from dtir_sdk.engines.tensorrt.views import DeviceView
from dtir_sdk.errors import EngineError

# One a batch size, and some for arrays of the caller's own.
_MOST_RECORDINGS = 48


@dataclass(frozen=True)
class Stage:
    """A graph to run.

    Attributes:
        engine: TensorRT's deserialised engine.
        signature: its inputs and outputs.
        file: its name, for errors.
        batches: its profiles, in their order.
        runtime: TensorRT-RTX's configuration of its contexts; None for TensorRT.
    """

    engine: Any
    signature: Signature
    file: str
    batches: tuple[BatchRange, ...]
    runtime: Any = None


@dataclass(frozen=True)
class Ran:
    """What a run gave.

    Attributes:
        outputs: for each stage its output in host memory, the caller's own, or None where it was
            left on the card.
        milliseconds: for each stage the time on the card, the copies in and out included.
    """

    outputs: tuple[Array | None, ...]
    milliseconds: tuple[float, ...]


@dataclass(frozen=True)
class _Key:
    """What a recording is good for; address 0 stands for our own buffer."""

    count: int
    source: int
    targets: tuple[int, ...]


@dataclass
class _Recording:
    calls: int = 0
    graph: Any = None


@dataclass
class _Slot:
    """Buffers of one tensor, for the largest batch."""

    tensor: Tensor
    pinned: PinnedArray
    device: DeviceMemory
    bytes_each: int = field(init=False)

    def __post_init__(self) -> None:
        array = self.pinned.array
        self.bytes_each = array.nbytes // len(array)


class Execution:
    """Runs stages, each on what the one before it gave. For one thread at a time.

    Args:
        library: the TensorRT that deserialised the engines.
        cuda: the context; it is closed with the execution.
        stages: one or more.

    Attributes:
        cuda: the context.
        largest: the largest batch that every stage takes.
        no_graph: why no CUDA graph is used; None where one is.

    Raises:
        EngineError: the card has no memory for it.
    """

    def __init__(self, library: Library, cuda: Cuda, stages: Sequence[Stage]) -> None:
        self.cuda, self._library, self._driver = cuda, library, cuda.driver
        self._stages = list(stages)
        self.largest = min(max(batch.most for batch in stage.batches) for stage in stages)
        self.no_graph: str | None = None
        self._recordings: OrderedDict[_Key, _Recording] = OrderedDict()
        self._contexts: dict[tuple[int, int], Any] = {}
        self._slots: list[_Slot] = []
        self._events: list[Any] = []
        self._stream: Any = None
        self._scratch: DeviceMemory | None = None
        self._closed = False
        try:
            with cuda.active():
                self._allocate()
        except BaseException:
            self.close()
            raise

    @property
    def stream(self) -> int:
        """Address of the stream."""
        return int(self._stream)

    def input(self) -> Tensor:
        """The first stage's input."""
        return self._stages[0].signature.inputs[0]

    def output(self, number: int) -> Tensor:
        """A stage's output."""
        return self._stages[number].signature.outputs[0]

    def run(
        self, batch: Array | DeviceView, targets: Sequence[DeviceView | None] | None = None
    ) -> Ran:
        """Runs all stages and waits for them.

        Args:
            batch: [N, ...] as the first stage's input; on the card, it is read where it lies.
            targets: for each stage where on the card to leave its output; None gives it in host
                memory. Floats are given in host memory also then, to be looked at.

        Raises:
            EngineError: N is outside the profiles, shapes do not fit, or the card failed.
        """
        targets = targets or [None] * len(self._stages)
        count = batch.count if isinstance(batch, DeviceView) else len(batch)
        self._check(batch, count, targets)
        key = _Key(
            count,
            batch.address if isinstance(batch, DeviceView) else 0,
            tuple(target.address if target else 0 for target in targets),
        )
        if not isinstance(batch, DeviceView):
            np.copyto(self._slots[0].pinned.array[:count], batch)
        with self.cuda.active():
            self._launch(key)
            self._driver("cuStreamSynchronize", self._stream)
            pairs = zip(self._events, self._events[1:], strict=False)
            took = tuple(float(self._driver("cuEventElapsedTime", *pair)) for pair in pairs)
        outputs = tuple(
            slot.pinned.array[:count].copy() if self._copied_out(slot, target) else None
            for slot, target in zip(self._slots[1:], key.targets, strict=True)
        )
        return Ran(outputs, took)

    def close(self) -> None:
        """Frees everything; may be called again."""
        if self._closed:
            return
        self._closed = True
        # Where the caller has destroyed the context, all of this is gone with it.
        with suppress(EngineError), self.cuda.active():
            for recording in self._recordings.values():
                self._forget(recording)
            # Contexts before engines, engines before the memory that they use.
            self._contexts.clear()
            self._stages.clear()
            for slot in self._slots:
                slot.pinned.free()
                slot.device.free()
            if self._scratch is not None:
                self._scratch.free()
            for event in self._events:
                self._release("cuEventDestroy", event)
            if self._stream is not None:
                self._release("cuStreamDestroy", self._stream)
        self._recordings.clear()
        self._contexts.clear()
        self._stages.clear()
        self._slots.clear()
        self._events.clear()
        self.cuda.close()

    def _allocate(self) -> None:
        names = self._driver.names
        self._stream = self._driver(
            "cuStreamCreate", int(names.CUstream_flags.CU_STREAM_NON_BLOCKING)
        )
        for _ in range(len(self._stages) + 1):
            self._events.append(
                self._driver("cuEventCreate", int(names.CUevent_flags.CU_EVENT_DEFAULT))
            )
        outputs = [stage.signature.outputs[0] for stage in self._stages]
        for tensor in (self.input(), *outputs):
            shape = (self.largest, *(side or 0 for side in tensor.shape[1:]))
            pinned = PinnedArray(self.cuda, shape, tensor.dtype)
            try:
                device = DeviceMemory(self.cuda, pinned.array.nbytes)
            except BaseException:
                pinned.free()
                raise
            self._slots.append(_Slot(tensor, pinned, device))
        # Stages run one after the other, so one block serves all of them at every batch size.
        self._scratch = DeviceMemory(
            self.cuda, max(_scratch_size(stage.engine) for stage in self._stages)
        )

    def _check(
        self, batch: Array | DeviceView, count: int, targets: Sequence[DeviceView | None]
    ) -> None:
        if self._closed:
            raise EngineError("used after close(): make a new one")
        for stage in self._stages:
            if not any(count in batches for batches in stage.batches):
                served = " and ".join(f"{one.least} to {one.most}" for one in stage.batches)
                raise EngineError(
                    f"a batch of {count} is outside the profiles of {stage.file}, which serve "
                    f"{served}: give it in parts, or build for such batches"
                )
        for target in targets:
            if target is not None and target.count != count:
                raise EngineError(f"the batch holds {count} and an output {target.count}")
        if not isinstance(batch, DeviceView):
            slot = self._slots[0]
            shape = (count, *slot.pinned.array.shape[1:])
            if batch.shape != shape or batch.dtype != slot.pinned.array.dtype:
                raise EngineError(
                    f"the batch is {batch.dtype} {list(batch.shape)}, and must be {slot.tensor}"
                )

    def _launch(self, key: _Key) -> None:
        recording = self._recordings.setdefault(key, _Recording())
        self._recordings.move_to_end(key)
        if len(self._recordings) > _MOST_RECORDINGS:
            self._forget(self._recordings.popitem(last=False)[1])
        recording.calls += 1
        if recording.graph is None and recording.calls > 1 and self.no_graph is None:
            recording.graph = self._capture(key)
        if recording.graph is not None:
            self._driver("cuGraphLaunch", recording.graph, self._stream)
        else:
            self._enqueue(key, recorded=False)

    def _capture(self, key: _Key) -> Any:
        for number in range(len(self._stages)):
            context = self._context(number, key.count)
            if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(
                self.stream
            ):
                self.no_graph = f"{self._stages[number].file} cannot be captured"
                return None
        names = self._driver.names
        mode = names.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._driver("cuStreamBeginCapture", self._stream, mode)
        try:
            self._enqueue(key, recorded=True)
            graph = self._driver("cuStreamEndCapture", self._stream)
        except EngineError as error:
            # An open capture would refuse everything else on the stream.
            with suppress(EngineError):
                self._release("cuGraphDestroy", self._driver("cuStreamEndCapture", self._stream))
            self.no_graph = str(error)
            return None
        try:
            return self._driver("cuGraphInstantiate", graph, 0)
        finally:
            self._driver("cuGraphDestroy", graph)

    def _enqueue(self, key: _Key, *, recorded: bool) -> None:
        """Queues the copies, the stages and the events; `recorded` into a CUDA graph."""
        flags = self._driver.names.CUevent_record_flags
        flag = int(flags.CU_EVENT_RECORD_EXTERNAL if recorded else flags.CU_EVENT_RECORD_DEFAULT)
        stream, first = self._stream, self._slots[0]
        self._driver("cuEventRecordWithFlags", self._events[0], stream, flag)
        source = key.source
        if not source:
            source = first.device.address
            size = key.count * first.bytes_each
            self._driver("cuMemcpyHtoDAsync", source, first.pinned.address, size, stream)
        for number, given in enumerate(key.targets):
            slot = self._slots[number + 1]
            target = given or slot.device.address
            self._run_stage(number, key.count, source, target)
            last = number == len(key.targets) - 1
            if last:
                self._copy_out(key)
            self._driver("cuEventRecordWithFlags", self._events[number + 1], stream, flag)
            source = target

    def _run_stage(self, number: int, count: int, source: int, target: int) -> None:
        stage = self._stages[number]
        context = self._context(number, count)
        context.set_tensor_address(stage.signature.inputs[0].name, source)
        context.set_tensor_address(stage.signature.outputs[0].name, target)
        if not context.execute_async_v3(self.stream):
            raise EngineError(
                f"{self._library.name} failed in {stage.file}: {self._library.complaints()}"
            )

    def _copy_out(self, key: _Key) -> None:
        for slot, given in zip(self._slots[1:], key.targets, strict=True):
            if self._copied_out(slot, given):
                source = given or slot.device.address
                size = key.count * slot.bytes_each
                self._driver("cuMemcpyDtoHAsync", slot.pinned.address, source, size, self._stream)

    @staticmethod
    def _copied_out(slot: _Slot, target: object) -> bool:
        return not target or slot.tensor.dtype.startswith("float")

    def _context(self, number: int, count: int) -> Any:
        """A context of its own for every batch size, since a recording holds on to its shapes."""
        if (number, count) not in self._contexts:
            stage = self._stages[number]
            context = _new_context(self._library, stage)
            if context is None:
                raise EngineError(
                    f"{self._library.name} cannot run {stage.file}: {self._library.complaints()}"
                )
            assert self._scratch is not None
            if hasattr(context, "set_device_memory"):
                context.set_device_memory(self._scratch.address, self._scratch.size)
            else:
                context.device_memory = self._scratch.address
            profile = next(n for n, batches in enumerate(stage.batches) if count in batches)
            context.set_optimization_profile_async(profile, self.stream)
            tensor = stage.signature.inputs[0]
            context.set_input_shape(tensor.name, (count, *tensor.shape[1:]))
            self._contexts[number, count] = context
        return self._contexts[number, count]

    def _forget(self, recording: _Recording) -> None:
        if recording.graph is not None:
            self._release("cuGraphExecDestroy", recording.graph)
            recording.graph = None

    def _release(self, function: str, handle: Any) -> None:
        with suppress(EngineError):
            self._driver(function, handle)


def _scratch_size(engine: Any) -> int:
    size = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if size is None else size)


def _new_context(library: Library, stage: Stage) -> Any:
    """A context that takes its memory from us."""
    if stage.runtime is not None:
        return stage.engine.create_execution_context(stage.runtime)
    strategies = getattr(library.trt, "ExecutionContextAllocationStrategy", None)
    if strategies is None:
        return stage.engine.create_execution_context_without_device_memory()
    return stage.engine.create_execution_context(strategies.USER_MANAGED)
