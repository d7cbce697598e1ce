"""Everything that needs an NVIDIA card, in one go: `python benchmarks/gpu_check.py`.

Runs all tests marked `gpu`; builds the engines of a bundle, and loads them again out of the cache;
compares each with ONNX Runtime in FP32 on the CPU; measures transfer and recognition, from a batch
in host memory to cartoons and labels in host memory, all engines in one interleaved run.

Leaves one JSON. Exit code 1 where a test failed, an engine's cartoons or labels differ, or no
engine works on the card; 2 where it could not be checked.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import tyro
from command import check_counts, one_line_errors
from interleaved import measure, spread
from portrait import portrait_crops

from dtir_sdk.bundle import Bundle
from dtir_sdk.conditions import versions_of
from dtir_sdk.engines import Chain, Choice, choose, load_chain, problems
from dtir_sdk.engines.base import Problem
from dtir_sdk.engines.tensorrt.cuda import look
from dtir_sdk.errors import EngineError
from dtir_sdk.files import check_writable, write_atomically
from dtir_sdk.graphs import bundle_graph
from dtir_sdk.pictures import Picture

ROOT = Path(__file__).parents[1]
ENGINES = ("tensorrt", "tensorrt-rtx", "onnxruntime")
PACKAGES = ("tensorrt", "tensorrt-rtx", "onnxruntime-gpu", "cuda-bindings", "cuda-core", "pycuda")
BATCHES = (1, 8)
COMPARED = 16
LEAST_PSNR = 32.0


@dataclass(frozen=True)
class Arguments:
    """What to check.

    Attributes:
        bundle: bundle to check; the one that comes with dtir if none.
        rounds: of the time, each two calls.
        output: file for the report.
        tests: run the tests, too.
    """

    bundle: Path | None = None
    rounds: int = 150
    output: Path = Path("gpu-check.json")
    tests: bool = True


def main(arguments: Arguments) -> int:
    """Runs all parts and writes the JSON.

    Returns:
        The exit code.

    Raises:
        DtirError: there is no card, or the bundle or an engine cannot be used.
    """
    check_counts(rounds=arguments.rounds)
    check_writable(arguments.output.absolute().parent)
    gpu = look()
    if isinstance(gpu, Problem):
        raise EngineError(str(gpu))
    bundle = Bundle.open(arguments.bundle)
    found = problems()
    on_card = {name: found[f"{name} on cuda"] for name in ENGINES}
    report: dict[str, Any] = {
        "gpu": asdict(gpu),
        "host": platform.platform(),
        "packages": versions_of(PACKAGES),
        "problems": {name: problem and str(problem) for name, problem in found.items()},
        "tests": run_tests() if arguments.tests else None,
        "bundle": {
            "name": bundle.manifest.name,
            "precision": {name: file.precision for name, file in bundle.manifest.files.items()},
        },
        "loading": {},
    }
    crops = portrait_crops(bundle.manifest.image_size, COMPARED)
    chains: dict[str, Chain] = {}
    with ExitStack() as stack:
        for name in ENGINES:
            if on_card[name] is None:
                chains[name], report["loading"][name] = build(bundle, choose(name, "cuda"))
                stack.callback(chains[name].close)
        reference = open_chain(bundle, choose("onnxruntime", "cpu"))
        stack.callback(reference.close)
        report["parity"] = {
            name: compare(chain, reference, crops) for name, chain in chains.items()
        }
        report["milliseconds"] = {
            f"batch {count}": speeds(chains, crops[:count], arguments.rounds) for count in BATCHES
        }
    text = json.dumps(report, indent=2)
    write_atomically(arguments.output, f"{text}\n".encode())
    print(text)
    if not chains:
        reasons = "; ".join(map(str, on_card.values()))
        print(f"gpu_check: no engine works on this card: {reasons}", file=sys.stderr)
        return 1
    passed = report["tests"] is None or report["tests"]["exit_code"] == 0
    return 0 if passed and all(each["passed"] for each in report["parity"].values()) else 1


def run_tests() -> dict[str, Any]:
    """Runs the tests marked `gpu`; their skips and failures are in the text."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rsf", "tests"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"exit_code": run.returncode, "output": run.stdout.splitlines()[-60:]}


def open_chain(bundle: Bundle, choice: Choice) -> Chain:
    """Loads transfer generator and recognizer."""
    return load_chain(bundle_graph(bundle, "transfer"), bundle_graph(bundle, "recognizer"), choice)


def build(bundle: Bundle, choice: Choice) -> tuple[Chain, dict[str, Any]]:
    """Loads twice: the first time builds what is not in the cache."""
    first_chain, first = timed(lambda: open_chain(bundle, choice))
    first_info = str(first_chain.info)
    first_chain.close()
    chain, again = timed(lambda: open_chain(bundle, choice))
    return chain, {
        "first_seconds": first,
        "first": first_info,
        "again_seconds": again,
        "again": str(chain.info),
    }


def timed(work: Callable[[], Chain]) -> tuple[Chain, float]:
    """Does something and takes the seconds."""
    start = perf_counter()
    return work(), perf_counter() - start


def compare(chain: Chain, reference: Chain, crops: Picture) -> dict[str, Any]:
    """Cartoons and labels against the reference's."""
    found, expected = chain.infer(crops), reference.infer(crops)
    # Not by `dtir_export.parity`: it brings torch, whose CUDA libraries would stand in for those
    # that an application lacks.
    difference = found.first.astype(np.float64) - expected.first
    psnr = float(10 * np.log10(255**2 / max((difference**2).mean(), 1e-12)))
    agreement = float((found.second.argmax(1) == expected.second.argmax(1)).mean())
    return {
        "psnr_db": psnr,
        "label_agreement": agreement,
        "passed": psnr >= LEAST_PSNR and agreement == 1.0,
    }


def speeds(chains: Mapping[str, Chain], batch: Picture, rounds: int) -> dict[str, Any]:
    """Wall clock of a call; and within it the time in the engine, over all calls."""
    inside: dict[str, list[float]] = {name: [] for name in chains}

    def call(name: str) -> None:
        inside[name].append(sum(chains[name].infer(batch).milliseconds))

    turns = {name: {"call": partial(call, name)} for name in chains}
    times = measure(turns, rounds=rounds, seconds=600)
    return {
        name: {
            **asdict(spread(times[name]["call"])),
            "engine_median": float(np.median(inside[name])),
        }
        for name in chains
    }


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main(tyro.cli(Arguments, description=__doc__)))
