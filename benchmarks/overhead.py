"""What the SDK adds to the bare engine, and whether it leaks: `python benchmarks/overhead.py`.

Time: transfer and recognition the way a `Pipeline` does both, and through `Transfer` and then
`Recognizer`, against OpenVINO by itself with the same options, in one interleaved run. It is called
in two ways: as its documentation does, `compiled(batch)`, which gives results of the caller's own
as the SDK does; and in the least that it can be done with, on its own buffers, with nothing
given to it, checked or copied out.

Memory: that of the process (and of the card, `--device cuda`) while a pipeline takes 10,000 frames.
What is in use when the first 500 are done must be what is in use at the end. The same is then
done again with a leak made on purpose, which must be seen: else the test proves nothing.

Writes overhead.json, overhead.md and overhead.png. Exit code 1 where memory grew, or where the leak
was not seen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro
from command import one_line_errors
from conditions import write_report
from interleaved import Call, Spread, measure, spread
from numpy.typing import NDArray
from report import RESULTS, surroundings, table, write_figure
from rich.progress import track

from dtir_sdk import Pipeline, Recognizer, Transfer
from dtir_sdk.bundle import Bundle
from dtir_sdk.cascade import Cascade
from dtir_sdk.engines import choose
from dtir_sdk.engines.tensorrt.cuda import Cuda, DeviceMemory
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.faces import FaceFinder, alignment, crop_face
from dtir_sdk.files import check_writable
from dtir_sdk.pictures import Picture, read_picture
from dtir_sdk.sources import SAMPLE_PORTRAIT

if TYPE_CHECKING:
    import openvino
    from matplotlib.figure import Figure

# Frames after which all that is made once has been made.
SETTLED = 500
_SAMPLES = 200
# Bytes a frame. Pages, and what NumPy and Python keep for later, are a few hundred KiB in all.
_ALLOWED = 64
_LEAKED = 256
_LEAKED_ON_CARD = 4096


@dataclass(frozen=True)
class Overhead:
    """The SDK against the bare engine, for one face.

    Attributes:
        way: of the SDK, through which both networks are run.
        engine: which engine the SDK picked.
        sdk: milliseconds of transfer and recognition through the SDK.
        called: the same in OpenVINO, called as its documentation does.
        bare: the same in OpenVINO, on its own buffers.
        percent_over_called: that the SDK adds to the median of `called`; below 0: it is faster.
        percent_over_bare: that it adds to the median of `bare`.
    """

    way: str
    engine: str
    sdk: Spread
    called: Spread
    bare: Spread
    percent_over_called: float
    percent_over_bare: float


@dataclass(frozen=True)
class Growth:
    """Memory over many frames.

    Attributes:
        where: `host` or `card`.
        leak: bytes a frame that were leaked on purpose.
        frames: how many there were.
        bytes_per_frame: growth from the first 500 frames on.
        samples: bytes in use, at even distances.
    """

    where: str
    leak: int
    frames: int
    bytes_per_frame: float
    samples: tuple[int, ...]

    @property
    def grew(self) -> bool:
        """Whether this is more than chance."""
        return self.bytes_per_frame > _ALLOWED


@dataclass(frozen=True)
class Gauge:
    """A memory that can be read and leaked into.

    Attributes:
        where: `host` or `card`.
        read: returns the bytes in use.
        leak: takes `leaked` bytes and returns what holds them.
        leaked: bytes.
    """

    where: str
    read: Callable[[], int]
    leak: Callable[[], object]
    leaked: int


def overheads(bundle: Bundle, rounds: int) -> list[Overhead]:
    """Measures the time of both ways on the CPU.

    Args:
        bundle: with both graphs.
        rounds: how many.

    Raises:
        DtirError: the bundle or OpenVINO cannot be used.
    """
    face = _face(bundle.manifest.image_size)
    batch = face[np.newaxis]
    with (
        Transfer(bundle, engine="openvino") as transfer,
        Recognizer(bundle, engine="openvino") as recognizer,
        closing(Cascade(bundle, engine="openvino")) as cascade,
    ):
        hint = transfer.engine.precision.partition(",")[0]
        compiled = [
            _compiled(transfer.bundle.model(name), hint) for name in ("transfer", "recognizer")
        ]
        requests = [one.create_infer_request() for one in compiled]
        requests[0].set_input_tensor(_shared(batch))
        cartoon: Picture = requests[0].get_output_tensor().data
        requests[1].set_input_tensor(_shared(cartoon))

        def bare() -> None:
            # Found faster than `infer()`.
            for request in requests:
                request.start_async()
                request.wait()

        def called() -> None:
            compiled[1](compiled[0](batch)[0])

        ways: dict[str, Call] = {
            "as a Pipeline does": lambda: cascade(batch),
            "Transfer, then Recognizer": lambda: recognizer(transfer(face)),
        }
        turns = {"bare": bare, "called": called, **ways}
        times = measure(
            {name: {"call": call} for name, call in turns.items()},
            rounds=rounds,
            seconds=600,
            repeats=10,
        )
        engine = str(transfer.engine)
    spreads = {name: spread(of["call"]) for name, of in times.items()}

    def more(way: str, than: str) -> float:
        return 100 * (spreads[way].median / spreads[than].median - 1)

    return [
        Overhead(
            way,
            engine,
            spreads[way],
            spreads["called"],
            spreads["bare"],
            more(way, "called"),
            more(way, "bare"),
        )
        for way in ways
    ]


def _compiled(data: bytes, hint: str) -> openvino.CompiledModel:
    from dtir_sdk.engines.openvino import core as openvino_core

    core = openvino_core()
    model = core.read_model(data)
    model.reshape([1, *(side.get_length() for side in [*model.input(0).get_partial_shape()][1:])])
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    return core.compile_model(model, "CPU", options)


def _shared(batch: Picture) -> openvino.Tensor:
    import openvino

    return openvino.Tensor(batch, shared_memory=True)


def _face(size: int) -> Picture:
    portrait = read_picture(SAMPLE_PORTRAIT)
    landmarks = FaceFinder().find(portrait)[0].landmarks
    return crop_face(portrait, alignment(landmarks, size), size)


def host_gauge() -> Gauge:
    """The memory of this process, as Linux counts it."""

    def resident() -> int:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    return Gauge("host", resident, lambda: bytearray(_LEAKED), _LEAKED)


def card_gauge(cuda: Cuda) -> Gauge:
    """The memory of a card, whoever uses it.

    Args:
        cuda: a context on it.
    """

    def used() -> int:
        with cuda.active():
            free, total = cuda.driver("cuMemGetInfo")
        return int(total) - int(free)

    def leak() -> object:
        with cuda.active():
            return DeviceMemory(cuda, _LEAKED_ON_CARD)

    return Gauge("card", used, leak, _LEAKED_ON_CARD)


def growths(
    step: Callable[[int], object], gauges: Sequence[Gauge], frames: int, *, leak: bool
) -> list[Growth]:
    """Watches memories over many frames.

    Args:
        step: does frame n.
        gauges: the memories.
        frames: how many, more than 500.
        leak: whether to leak into each of them with every frame.
    """
    every = max(1, frames // _SAMPLES)
    samples: dict[str, list[int]] = {gauge.where: [] for gauge in gauges}
    leaks: list[object] = []
    text = "with a leak" if leak else "as it is"
    for number in track(range(frames), f"{frames} frames, {text}"):
        step(number)
        if leak:
            leaks += [gauge.leak() for gauge in gauges]
        if (number + 1) % every == 0:
            for gauge in gauges:
                samples[gauge.where].append(gauge.read())
    found = [
        Growth(
            gauge.where,
            gauge.leaked if leak else 0,
            frames,
            slope(np.array(samples[gauge.where]), every),
            tuple(samples[gauge.where]),
        )
        for gauge in gauges
    ]
    if leak:
        free_leaks(leaks)
    return found


def free_leaks(leaks: list[object]) -> None:
    """Gives back what was leaked on purpose."""
    for held in leaks:
        if isinstance(held, DeviceMemory):
            held.free()
    leaks.clear()


def slope(samples: NDArray[np.int64], every: int) -> float:
    """Returns the growth in bytes a frame from the first 500 frames on.

    It is the difference of the medians of the last fifth and the first fifth of what comes after
    them: a single sample may be off.

    Args:
        samples: bytes, one after every `every` frames, ten or more of them after the first 500.
        every: frames.
    """
    settled = samples[-(-SETTLED // every) :]
    fifth = len(settled) // 5
    frames = (len(settled) - fifth) * every
    return float(np.median(settled[-fifth:]) - np.median(settled[:fifth])) / frames


def watch_pipeline(
    bundle: Bundle, device: Literal["cpu", "cuda"], frames: int
) -> tuple[list[Growth], list[Growth]]:
    """Watches a pipeline, first as it is and then with a leak made on purpose.

    Args:
        bundle: with both graphs.
        device: where to compute.
        frames: how many.

    Raises:
        DtirError: the bundle or the device cannot be used.
    """
    portrait = read_picture(SAMPLE_PORTRAIT)
    shots = [np.ascontiguousarray(np.roll(portrait, (shift, -shift), (0, 1))) for shift in range(8)]
    with ExitStack() as stack:
        pipeline = stack.enter_context(Pipeline(bundle, device=device))
        gauges = [host_gauge()]
        if device == "cuda":
            cuda = Cuda()
            stack.callback(cuda.close)
            gauges.append(card_gauge(cuda))

        def step(number: int) -> object:
            return pipeline(shots[number % len(shots)])

        as_is = growths(step, gauges, frames, leak=False)
        return as_is, growths(step, gauges, frames, leak=True)


def lines(ways: Sequence[Overhead], found: Sequence[Growth]) -> list[str]:
    """What was found, as Markdown."""
    bare, called = ways[0].bare, ways[0].called
    times = [
        ["OpenVINO, on its own buffers", f"{bare.median:.3f}", f"{bare.p95:.3f}", "", ""],
        ["OpenVINO, `compiled(batch)`", f"{called.median:.3f}", f"{called.p95:.3f}", "", ""],
    ]
    times += [
        [
            one.way,
            f"{one.sdk.median:.3f}",
            f"{one.sdk.p95:.3f}",
            f"{one.percent_over_called:.1f}%",
            f"{one.percent_over_bare:.1f}%",
        ]
        for one in ways
    ]
    rows = [
        [
            growth.where,
            str(growth.leak),
            str(growth.frames),
            f"{growth.samples[0] / 1e6:.1f}",
            f"{growth.samples[-1] / 1e6:.1f}",
            f"{growth.bytes_per_frame:.1f}",
            "yes" if growth.grew else "no",
        ]
        for growth in found
    ]
    header = ["memory", "leaked, B a frame", "frames", "first MB", "last MB", "B a frame", "grew"]
    return [
        "# Overhead",
        "",
        f"Transfer and recognition of one face, {ways[0].engine}:",
        "",
        *table(
            ["way", "median ms", "p95 ms", "more than `compiled(batch)`", "more than own buffers"],
            times,
        ),
        f"Growth after the first {SETTLED} frames; up to {_ALLOWED} bytes a frame count as none:",
        "",
        *table(header, rows),
    ]


def plot(found: Sequence[Growth]) -> Figure:
    """Memory over frames, as it is and with the leak."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for growth in found:
        frames = np.linspace(0, growth.frames, len(growth.samples) + 1)[1:]
        name = f"{growth.where}, leaking {growth.leak} B a frame" if growth.leak else growth.where
        axes.plot(frames, (np.array(growth.samples) - growth.samples[0]) / 1e6, label=name)
    axes.set_xlabel("frames")
    axes.set_ylabel("MB over the first sample")
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
        bundle: bundle to use; the one that comes with dtir if none.
        device: of the pipeline whose memory is watched; the time is measured on the CPU.
        rounds: of the time, each ten calls.
        frames: of the memory, each once as it is and once with a leak; 1000 or more.
        output: folder for the report.
    """

    bundle: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    rounds: int = 60
    frames: int = 10_000
    output: Path = RESULTS


def main(arguments: Arguments) -> int:
    """Measures, prints and writes.

    Returns:
        The exit code.

    Raises:
        DtirError: it cannot be measured or written.
    """
    if arguments.frames < 2 * SETTLED:
        raise ConfigurationError(
            f"frames is {arguments.frames}: it must be {2 * SETTLED} or more, since growth is "
            f"looked for after the first {SETTLED}"
        )
    # Now, and not after minutes of measuring.
    check_writable(arguments.output)
    choose(device=arguments.device)
    around = surroundings()
    bundle = Bundle.open(arguments.bundle)
    ways = overheads(bundle, arguments.rounds)
    as_is, leaking = watch_pipeline(bundle, arguments.device, arguments.frames)
    found = [*as_is, *leaking]
    document = {
        **around,
        "bundle": bundle.manifest.name,
        "overheads": [asdict(one) for one in ways],
        "allowed_bytes_per_frame": _ALLOWED,
        "growth": [{**asdict(growth), "grew": growth.grew} for growth in found],
    }
    write_report(arguments.output, "overhead", document, lines(ways, found))
    write_figure(arguments.output / "overhead.png", plot(found))
    if any(growth.grew for growth in as_is):
        print("memory grew", file=sys.stderr)
        return 1
    if not all(growth.grew for growth in leaking):
        print("the leak made on purpose was not seen: the test proves nothing", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main(tyro.cli(Arguments, description=__doc__)))
