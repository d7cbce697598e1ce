"""A CUDA driver and a TensorRT in Python, strict about what the real ones are strict about.

Memory on the card is memory of this process, kernels are ONNX Runtime on the CPU, and a CUDA graph
is a list of functions. Every handle is counted, so that a test can see what was not freed.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STUB_LIBRARY = 34
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


OK = CUresult.CUDA_SUCCESS


class FakeDriver:
    """`cuda.bindings.driver`, as far as the SDK calls it.

    Args:
        gpu: the card's name; None is a machine without one.
        capability: its compute capability.
        offers: CUDA version of the driver, as `cuDriverGetVersion` gives it.
        memory: bytes on the card.
    """

    CUresult = CUresult
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
    )
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DEFAULT=0)
    CUevent_record_flags = SimpleNamespace(CU_EVENT_RECORD_DEFAULT=0, CU_EVENT_RECORD_EXTERNAL=1)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread-local")

    def __init__(
        self,
        gpu: str | None = "NVIDIA Test 1",
        capability: tuple[int, int] = (8, 9),
        offers: int = 13010,
        memory: int = 1 << 28,
    ) -> None:
        self.gpu, self.capability, self.offers, self.memory = gpu, capability, offers, memory
        self.calls: list[str] = []
        self.contexts: list[int] = []
        self.primary = 0
        self.installed = True
        self.refuses: dict[str, CUresult] = {}
        self.allocated: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]] | None] = {}
        self.events: set[int] = set()
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self._numbers = itertools.count(1000)

    def leftovers(self) -> dict[str, int]:
        """What is still held, by kind; empty when all was freed."""
        held = {
            "memory": len(self.allocated),
            "pinned": len(self.pinned),
            "streams": len(self.streams),
            "events": len(self.events),
            "graphs": len(self.graphs) + len(self.executables),
            "primary": self.primary,
            "contexts": len(self.contexts),
        }
        return {kind: count for kind, count in held.items() if count}

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("cu") or not callable(value):
            return value

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.refuses:
                return (self.refuses[name], None)
            free = ("cuInit", "cuDevice", "cuCtx", "cuDriver", "cuGetError", "cuMemGetInfo")
            if not name.startswith(free) and not self.contexts:
                return (CUresult.CUDA_ERROR_INVALID_CONTEXT, None)
            return value(*arguments)

        return call

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Does work on a stream, or records it where the stream is being captured."""
        recording = self.streams[int(stream)]
        if recording is None:
            work()
        else:
            recording.append(work)

    def cuInit(self, flags: int) -> tuple[CUresult]:  # noqa: N802
        assert flags == 0
        if not self.installed:
            raise RuntimeError("libcuda.so.1 was not found")
        return (CUresult.CUDA_ERROR_NO_DEVICE if self.gpu is None else OK,)

    def cuDriverGetVersion(self):  # noqa: N802
        return OK, self.offers

    def cuDeviceGetCount(self):  # noqa: N802
        return OK, 0 if self.gpu is None else 1

    def cuDeviceGet(self, ordinal):  # noqa: N802
        return OK, ordinal

    def cuDeviceGetAttribute(self, attribute, device):  # noqa: N802
        assert device == 0
        return OK, self.capability[attribute == "minor"]

    def cuDeviceGetName(self, length, device):  # noqa: N802
        assert device == 0
        return OK, (self.gpu or "").encode().ljust(length, b"\0")

    def cuDevicePrimaryCtxRetain(self, device):  # noqa: N802
        assert device == 0
        self.primary += 1
        return OK, 77

    def cuDevicePrimaryCtxRelease(self, device):  # noqa: N802
        assert device == 0
        self.primary -= 1
        assert self.primary >= 0
        return (OK,)

    def cuCtxGetCurrent(self):  # noqa: N802
        return OK, self.contexts[-1] if self.contexts else 0

    def cuCtxGetDevice(self):  # noqa: N802
        return OK, 0

    def cuCtxPushCurrent(self, context):  # noqa: N802
        self.contexts.append(context)
        return (OK,)

    def cuCtxPopCurrent(self):  # noqa: N802
        return OK, self.contexts.pop()

    def cuMemGetInfo(self):  # noqa: N802
        return OK, self.memory - sum(len(block) for block in self.allocated.values()), self.memory

    def cuMemAlloc(self, size):  # noqa: N802
        assert size > 0
        if size > self.cuMemGetInfo()[1]:
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
        return OK, self._block(self.allocated, size)

    def cuMemFree(self, address):  # noqa: N802
        del self.allocated[int(address)]
        return (OK,)

    def cuMemHostAlloc(self, size, flags):  # noqa: N802
        assert flags == 0
        return OK, self._block(self.pinned, size)

    def cuMemFreeHost(self, address):  # noqa: N802
        del self.pinned[int(address)]
        return (OK,)

    def cuStreamCreate(self, flags):  # noqa: N802
        assert flags == 1
        number = next(self._numbers)
        self.streams[number] = None
        return OK, number

    def cuStreamSynchronize(self, stream):  # noqa: N802
        assert self.streams[stream] is None, "waiting for a stream that is being captured"
        return (OK,)

    def cuStreamDestroy(self, stream):  # noqa: N802
        del self.streams[stream]
        return (OK,)

    def cuStreamBeginCapture(self, stream, mode):  # noqa: N802
        assert mode == "thread-local"
        assert self.streams[stream] is None
        self.streams[stream] = []
        return (OK,)

    def cuStreamEndCapture(self, stream):  # noqa: N802
        recorded = self.streams[stream]
        assert recorded is not None
        self.streams[stream] = None
        number = next(self._numbers)
        self.graphs[number] = recorded
        return OK, number

    def cuGraphInstantiate(self, graph, flags):  # noqa: N802
        assert flags == 0
        number = next(self._numbers)
        self.executables[number] = list(self.graphs[graph])
        return OK, number

    def cuGraphDestroy(self, graph):  # noqa: N802
        del self.graphs[graph]
        return (OK,)

    def cuGraphExecDestroy(self, graph):  # noqa: N802
        del self.executables[graph]
        return (OK,)

    def cuGraphLaunch(self, graph, stream):  # noqa: N802
        assert self.streams[stream] is None
        for work in self.executables[graph]:
            work()
        return (OK,)

    def cuEventCreate(self, flags):  # noqa: N802
        assert flags == 0
        number = next(self._numbers)
        self.events.add(number)
        return OK, number

    def cuEventDestroy(self, event):  # noqa: N802
        self.events.remove(event)
        return (OK,)

    def cuEventRecordWithFlags(self, event, stream, flags):  # noqa: N802
        assert event in self.events
        captured = self.streams[stream] is not None
        assert flags == (1 if captured else 0), "external events belong into captures, only"
        return (OK,)

    def cuEventElapsedTime(self, start, end):  # noqa: N802
        assert {start, end} <= self.events
        return OK, 0.25

    def cuMemcpyHtoDAsync(self, target, source, size, stream):  # noqa: N802
        self._inside(self.allocated, target, size)
        self._inside(self.pinned, source, size)
        self.enqueue(stream, lambda: ctypes.memmove(int(target), int(source), size))
        return (OK,)

    def cuMemcpyDtoHAsync(self, target, source, size, stream):  # noqa: N802
        self._inside(self.pinned, target, size)
        self.enqueue(stream, lambda: ctypes.memmove(int(target), int(source), size))
        return (OK,)

    def cuGetErrorName(self, status):  # noqa: N802
        return OK, CUresult(status).name.encode()

    def _block(self, kept: dict[int, Any], size: int) -> int:
        block = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(block)
        kept[address] = block
        return address

    def _inside(self, kept: dict[int, Any], address: int, size: int) -> None:
        assert any(
            start <= int(address) and int(address) + size <= start + len(block)
            for start, block in kept.items()
        ), "a copy beyond its buffer"


class GpuArray:
    """An array on the fake card, as PyCUDA's or CuPy's: it only has the CUDA array interface."""

    def __init__(self, array: np.ndarray, device: int = 0, *, readonly: bool = False) -> None:
        self.array, self.device, self.readonly = array, device, readonly

    def __len__(self) -> int:
        return len(self.array)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self.array.ctypes.data, self.readonly),
            "strides": None if self.array.flags.c_contiguous else self.array.strides,
            "version": 3,
        }


class StridedMemoryView:
    """`cuda.core.utils.StridedMemoryView` for `GpuArray`; notes the streams it was ordered by."""

    streams: list[int] = []  # noqa: RUF012

    @classmethod
    def from_any_interface(cls, array: GpuArray, stream_ptr: int) -> SimpleNamespace:
        interface = array.__cuda_array_interface__
        cls.streams.append(stream_ptr)
        dtype = np.dtype(interface["typestr"])
        strides = interface["strides"]
        return SimpleNamespace(
            ptr=interface["data"][0],
            shape=interface["shape"],
            strides=strides and tuple(stride // dtype.itemsize for stride in strides),
            dtype=dtype,
            device_id=array.device,
            readonly=interface["data"][1],
        )


DataType = enum.Enum("DataType", ["UINT8", "FLOAT", "HALF"])
_TYPES = {1: DataType.FLOAT, 2: DataType.UINT8, 10: DataType.HALF}
_NUMPY = {"UINT8": "uint8", "FLOAT": "float32", "HALF": "float16"}
TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
_MARK = b"PLAN"


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


class IProgressMonitor:
    pass


def fake_tensorrt(driver: FakeDriver, kind: str = "10.9") -> SimpleNamespace:
    """A `tensorrt` module.

    Args:
        driver: the card that it runs on.
        kind: its version: `8.6.1`, `10.9`, `11.0`, or `rtx` for TensorRT-RTX 1.7.
    """
    rtx = kind == "rtx"
    old = kind.startswith("8.")
    trt = SimpleNamespace(
        __version__="1.7.1" if rtx else kind,
        ILogger=ILogger,
        TensorIOMode=TensorIOMode,
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        LayerType=SimpleNamespace(NORMALIZATION="normalization", SHAPE="shape"),
        ProfilingVerbosity=SimpleNamespace(LAYER_NAMES_ONLY="names", DETAILED="all"),
        DeviceType=SimpleNamespace(GPU="gpu", DLA="dla"),
        float32="float32",
        builds=[],
        contexts=0,
        kernels_found=[],
        starts=True,
        refuses=None,
        fails=None,
        capturable=True,
    )
    if old:
        trt.NetworkDefinitionCreationFlag = _members(EXPLICIT_BATCH=0)
        trt.BuilderFlag = _members(
            TF32="tf32", FP16="fp16", INT8="int8", OBEY_PRECISION_CONSTRAINTS="obey"
        )
        trt.PreviewFeature = SimpleNamespace(PROFILE_SHARING_0806="sharing")
    else:
        trt.NetworkDefinitionCreationFlag = _members(STRONGLY_TYPED=1)
        trt.BuilderFlag = _members(TF32="tf32")
        trt.IProgressMonitor = IProgressMonitor
        trt.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    if rtx:
        trt.BuilderFlag = _members(TF32="tf32", REQUIRE_USER_ALLOCATION="user-allocation")
        trt.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager", LAZY="lazy")
        trt.ComputeCapability = SimpleNamespace(SM86="sm86", SM89="sm89")

    class Config:
        def __init__(self) -> None:
            self.flags = {"tf32"}
            self.profiles: list[dict[str, Any]] = []
            self.pools: dict[str, int] = {}
            self.previews: set[str] = set()
            self.progress_monitor: Any = None
            self.timings: bytes | None = None
            self.cards: dict[int, str] = {}
            self.num_compute_capabilities = 0
            self.DLA_core, self.default_device_type = -1, trt.DeviceType.GPU
            self.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
            if not rtx:
                # Named here and not in the class: TensorRT alone has no such method.
                self.create_timing_cache = self._create_timing_cache
                self.set_timing_cache = self._set_timing_cache
            else:
                self.set_compute_capability = lambda card, number: self.cards.update({number: card})

        def set_memory_pool_limit(self, pool, size):
            self.pools[pool] = size

        def set_flag(self, flag):
            self.flags.add(flag)

        def clear_flag(self, flag):
            self.flags.discard(flag)

        def get_flag(self, flag):
            return flag in self.flags

        num_optimization_profiles = property(lambda self: len(self.profiles))

        def set_preview_feature(self, feature, on):
            assert on
            self.previews.add(feature)

        def add_optimization_profile(self, profile):
            self.profiles.append(profile.shapes)
            return len(self.profiles) - 1

        def _create_timing_cache(self, data):
            return None if data and not data.startswith(b"timings") else data

        def _set_timing_cache(self, cache, ignore_mismatch):
            assert not ignore_mismatch
            self.timings = cache

        def get_timing_cache(self):
            return TimingCache()

    class TimingCache:
        def combine(self, other, ignore_mismatch):
            assert other is not None
            assert ignore_mismatch
            return True

        def serialize(self):
            return HostMemory(b"timings " + trt.__version__.encode())

    class HostMemory(bytes):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    class Profile:
        def __init__(self) -> None:
            self.shapes: dict[str, Any] = {}

        def set_shape(self, name, least, best, most):
            self.shapes[name] = [list(least), list(best), list(most)]

    class Network:
        def __init__(self) -> None:
            self.ports: dict[str, list[Any]] = {"in": [], "out": []}
            self.layers = [SimpleNamespace(name="norm", type="normalization", precision=None)]
            self.data = b""

        num_inputs = property(lambda self: len(self.ports["in"]))
        num_outputs = property(lambda self: len(self.ports["out"]))
        num_layers = property(lambda self: len(self.layers))

        def get_input(self, number):
            return self.ports["in"][number]

        def get_output(self, number):
            return self.ports["out"][number]

        def get_layer(self, number):
            return self.layers[number]

        def __iter__(self):
            return iter(self.layers)

    class Builder:
        def __init__(self, log) -> None:
            if not trt.starts:
                log.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.log = log

        def create_network(self, flags):
            assert flags == (1 if old else 2)
            return Network()

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            assert rtx or driver.contexts, "TensorRT builds in a current context"
            trt.builds.append(SimpleNamespace(network=network, config=config))
            watcher = config.progress_monitor
            if watcher is not None and not _steps(watcher):
                return None
            if trt.refuses:
                self.log.log(ILogger.ERROR, trt.refuses)
                self.log.log(ILogger.WARNING, "only a warning")
                return None
            head = {
                "version": trt.__version__,
                "gpu": driver.gpu,
                "profiles": config.profiles,
            }
            return _MARK + json.dumps(head).encode() + b"\n" + network.data

    class Parser:
        def __init__(self, network, log) -> None:
            self.network, self.log, self.num_errors = network, log, 0

        def parse(self, data):
            try:
                model = onnx.load_model_from_string(data)
            except Exception as error:
                self.num_errors, self._error = 1, f"not a model:\n  {error}"
                return False
            self.network.data = data
            for key, values in (("in", model.graph.input), ("out", model.graph.output)):
                for value in values:
                    kind = value.type.tensor_type
                    shape = [side.dim_value or -1 for side in kind.shape.dim]
                    self.network.ports[key].append(
                        SimpleNamespace(
                            name=value.name,
                            dtype=_TYPES[kind.elem_type],
                            shape=shape,
                            is_shape_tensor=False,
                        )
                    )
            return True

        def get_error(self, number):
            assert number == 0
            return SimpleNamespace(desc=lambda: self._error)

    class Runtime:
        def __init__(self, log) -> None:
            self.log = log

        def deserialize_cuda_engine(self, data):
            assert driver.contexts, "TensorRT loads in a current context"
            head, _, model = data.removeprefix(_MARK).partition(b"\n")
            found = json.loads(head) if data.startswith(_MARK) else {}
            if found.get("version") != trt.__version__ or found.get("gpu") != driver.gpu:
                self.log.log(ILogger.ERROR, "the engine is of another version or device")
                return None
            return Engine(model, found["profiles"])

    class Engine:
        def __init__(self, model: bytes, profiles: list[dict[str, Any]]) -> None:
            self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            self.profiles = profiles
            parsed = onnx.load_model_from_string(model).graph
            self.ports = {
                value.name: (
                    mode,
                    _TYPES[value.type.tensor_type.elem_type],
                    [side.dim_value or -1 for side in value.type.tensor_type.shape.dim],
                )
                for mode, values in (
                    (TensorIOMode.OUTPUT, parsed.output),
                    (TensorIOMode.INPUT, parsed.input),
                )
                for value in values
            }
            if old:
                self.device_memory_size = 4096
                self.create_execution_context_without_device_memory = lambda: Context(self)
            else:
                self.device_memory_size_v2 = 4096
                self.create_execution_context = self._create
            if rtx:
                self.create_runtime_config = RuntimeConfig

        num_io_tensors = property(lambda self: len(self.ports))

        def get_tensor_name(self, number):
            return list(self.ports)[number]

        def get_tensor_mode(self, name):
            return self.ports[name][0]

        def get_tensor_dtype(self, name):
            return self.ports[name][1]

        def get_tensor_shape(self, name):
            return self.ports[name][2]

        def _create(self, how):
            if rtx:
                assert how.strategy == "user"
                assert how.dynamic_shapes_kernel_specialization_strategy == "eager"
            else:
                assert how == "user"
            return Context(self)

    class RuntimeConfig:
        dynamic_shapes_kernel_specialization_strategy = "lazy"
        strategy = "static"

        def set_execution_context_allocation_strategy(self, strategy):
            self.strategy = strategy

        def create_runtime_cache(self):
            return RuntimeCache()

        def set_runtime_cache(self, cache):
            self.cache = cache

    class RuntimeCache:
        def __init__(self) -> None:
            self.content = b""

        def deserialize(self, data):
            assert driver.contexts
            trt.kernels_found.append(data)
            self.content = data

        def serialize(self):
            assert driver.contexts
            return self.content or b"kernels"

    class Context:
        def __init__(self, engine) -> None:
            assert driver.contexts
            self.engine, self.profile, self.shape = engine, None, None
            self.device_memory = 0
            self.addresses: dict[str, int] = {}
            self.fresh = True
            trt.contexts += 1

        def __del__(self) -> None:
            trt.contexts -= 1

        def set_optimization_profile_async(self, number, stream):
            assert stream in driver.streams
            self.profile = self.engine.profiles[number]
            return True

        def set_input_shape(self, name, shape):
            least, _, most = self.profile[name]
            assert least[0] <= shape[0] <= most[0], "outside the profile"
            self.shape, self.fresh = tuple(shape), True
            return True

        def set_tensor_address(self, name, address):
            self.addresses[name] = int(address)
            return True

        def execute_async_v3(self, stream):
            assert driver.contexts
            assert self.device_memory in driver.allocated
            captured = driver.streams[int(stream)] is not None
            assert not (captured and self.fresh), "captured before the first run of a shape"
            self.fresh = False
            if trt.fails in ("always", "captured" if captured else "direct"):
                return False
            names = {self.engine.ports[name][0]: name for name in self.engine.ports}
            source, target = names[TensorIOMode.INPUT], names[TensorIOMode.OUTPUT]
            kind = _NUMPY[self.engine.ports[source][1].name]
            read, written = self.addresses[source], self.addresses[target]
            shape, session = self.shape, self.engine.session

            def kernel() -> None:
                size = int(np.prod(shape)) * np.dtype(kind).itemsize
                batch = np.frombuffer(ctypes.string_at(read, size), kind).reshape(shape)
                output = session.run([target], {source: batch})[0]
                ctypes.memmove(written, output.tobytes(), output.nbytes)

            driver.enqueue(stream, kernel)
            return True

    def set_device_memory(context, address, size):
        assert len(driver.allocated[address]) >= size >= 4096
        context.device_memory = address

    if not old:
        Context.set_device_memory = set_device_memory
    if rtx:
        Context.is_stream_capturable = lambda *_: trt.capturable
    trt.Builder, trt.OnnxParser, trt.Runtime = Builder, Parser, Runtime
    return trt


def _members(**values: Any) -> SimpleNamespace:
    """An enumeration, as those of the bindings: with `__members__`."""
    return SimpleNamespace(**values, __members__=values)


def _steps(watcher: Any) -> bool:
    """Two phases, one in the other, from TensorRT's point of view."""
    watcher.phase_start("build", None, 2)
    for step in range(2):
        watcher.phase_start("inner", "build", 4)
        for inner in range(4):
            if not watcher.step_complete("inner", inner):
                return False
        watcher.phase_finish("inner")
        if not watcher.step_complete("build", step):
            return False
    watcher.phase_finish("build")
    return True
