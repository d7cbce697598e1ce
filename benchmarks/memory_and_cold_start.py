"""First result and memory, each in a new process: `python benchmarks/memory_and_cold_start.py`.

Measures, for dtir and its peers on the CPU, the time from starting the interpreter to the first
face's label, the peak of memory until then, and the memory in use after a hundred faces more. What
a library keeps on the disk for its next start (dtir its compiled graphs, torch.compile its code) is
there in the rows marked `again`, and not in those marked `first time`. Files are in the system's
cache in all of them.

Writes memory_and_cold_start.json and memory_and_cold_start.md. Needs Linux, `pip install
"dtir[dev]"` and a C++ compiler for torch.compile. See `start_up.py` for imports and sizes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from command import PeerError, check_counts, one_line_errors
from conditions import write_report
from report import RESULTS, surroundings, table
from rich.progress import track
from safetensors.torch import save_file
from subjects import Preset, Subject, face_crops, preset_subject

from dtir_sdk.files import check_writable

PROGRAM = Path(__file__).with_name("first_use.py")


@dataclass(frozen=True)
class Way:
    """A library, and whether it has been used here before.

    Attributes:
        name: for the reader.
        peer: in `first_use.py`.
        kept: whether what it keeps on the disk is there.
    """

    name: str
    peer: str
    kept: bool = True


WAYS = (
    Way("dtir, again", "dtir"),
    Way("dtir, first time", "dtir", kept=False),
    Way("OpenVINO, plain", "openvino"),
    Way("ONNX Runtime, plain", "onnxruntime"),
    Way("torch eager f32", "torch_eager"),
    Way("torch.compile f32, again", "torch_compile"),
    Way("torch.compile f32, first time", "torch_compile", kept=False),
)


@dataclass(frozen=True)
class Use:
    """One process.

    Attributes:
        seconds: from starting the interpreter to the first result.
        peak: bytes of memory until then.
        settled: bytes in use after a hundred faces more.
    """

    seconds: float
    peak: int
    settled: int


@dataclass(frozen=True)
class Row:
    """Medians over the rounds; see `Use`."""

    subject: str
    way: str
    rounds: int
    seconds: float
    worst_seconds: float
    peak: float
    settled: float


def write_networks(subject: Subject, folder: Path) -> None:
    """Writes what `first_use.py` reads.

    Args:
        subject: the networks.
        folder: where to.

    Raises:
        OutputError: it cannot be written.
    """
    subject.write_bundle(folder / "bundle", subject.graphs, "fp32")
    networks = subject.networks
    save_file(networks.transfer.state_dict(), folder / "transfer.safetensors")
    save_file(networks.recognizer.state_dict(), folder / "recognizer.safetensors")
    sizes = asdict(networks.configuration.networks) | {"classes": len(networks.labels)}
    (folder / "sizes.json").write_text(json.dumps(sizes))
    np.save(folder / "face.npy", face_crops(None, subject.size, 1))


def use(way: Way, folder: Path, kept: Path) -> Use:
    """Uses a library in a new process.

    Args:
        way: which.
        folder: from `write_networks`.
        kept: what libraries keep on the disk.

    Raises:
        PeerError: it failed; its own words are on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="dtir-benchmark-") as empty:
        cache = str(kept if way.kept else empty)
        environment = os.environ | {"DTIR_CACHE": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
        start = time.monotonic()
        run = subprocess.run(
            [sys.executable, str(PROGRAM), way.peer, str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            check=False,
        )
    if run.returncode != 0:
        raise PeerError(f"{way.name} failed with exit code {run.returncode}")
    found = json.loads(run.stdout)
    return Use(found["first"] - start, found["peak"], found["settled"])


def measure(subject: Subject, rounds: int) -> list[Row]:
    """Measures all ways in every round, in an order that is drawn anew for each.

    Args:
        subject: the networks.
        rounds: how many, after one that fills the caches.
    """
    uses: dict[str, list[Use]] = {way.name: [] for way in WAYS}
    order = random.Random(0)
    ways = [*WAYS]
    with tempfile.TemporaryDirectory(prefix="dtir-benchmark-") as folder:
        networks, kept = Path(folder) / "networks", Path(folder) / "kept"
        networks.mkdir()
        kept.mkdir()
        write_networks(subject, networks)
        for way in ways:
            if way.kept:
                use(way, networks, kept)
        for _ in track(range(rounds), subject.name):
            order.shuffle(ways)
            for way in ways:
                uses[way.name].append(use(way, networks, kept))
    return [row(subject.name, way.name, uses[way.name]) for way in WAYS]


def row(subject: str, way: str, uses: Sequence[Use]) -> Row:
    """Sums the processes of a way up."""
    seconds = [each.seconds for each in uses]
    return Row(
        subject,
        way,
        len(uses),
        float(np.median(seconds)),
        max(seconds),
        float(np.median([each.peak for each in uses])),
        float(np.median([each.settled for each in uses])),
    )


def lines(rows: Sequence[Row]) -> list[str]:
    """The rows as Markdown."""
    header = ["library", "first result, s", "worst", "peak, MB", "after 100 faces, MB"]
    text = ["# Memory and cold start", ""]
    for subject in dict.fromkeys(each.subject for each in rows):
        cells = [
            [
                each.way,
                f"{each.seconds:.2f}",
                f"{each.worst_seconds:.2f}",
                f"{each.peak / 1e6:.0f}",
                f"{each.settled / 1e6:.0f}",
            ]
            for each in rows
            if each.subject == subject
        ]
        text += [f"## {subject}", "", *table(header, cells)]
    return text


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
        presets: whose networks, with random weights.
        size: side of the pictures.
        rounds: new processes a way.
        output: folder for the report.
    """

    presets: tuple[Preset, ...] = ("base", "edge")
    size: int = 128
    rounds: int = 7
    output: Path = RESULTS


def main(arguments: Arguments) -> None:
    """Measures, prints and writes.

    Raises:
        DtirError: it cannot be measured or written.
    """
    check_counts(rounds=arguments.rounds)
    check_writable(arguments.output)
    around = surroundings()
    rows: list[Row] = []
    for preset in arguments.presets:
        subject = preset_subject(preset, arguments.size, face_crops(None, arguments.size, 8))
        rows += measure(subject, arguments.rounds)
    document = {**around, "rows": [asdict(each) for each in rows]}
    write_report(arguments.output, "memory_and_cold_start", document, lines(rows))


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments, description=__doc__))
