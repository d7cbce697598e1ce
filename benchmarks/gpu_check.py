"""Everything that needs an NVIDIA card, in one go: `python benchmarks/gpu_check.py`.

Runs the tests marked `gpu`; builds the engines of a bundle, and loads them again out of the cache;
compares each with ONNX Runtime in FP32 on the CPU; measures transfer and recognition, from a batch
in host memory to cartoons and labels in host memory, all engines in one interleaved run. Leaves
one JSON; exit code 1 where a test failed or an engine's cartoons or labels differ.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from dtir_sdk.bundle import Bundle
from dtir_sdk.conditions import versions_of
from dtir_sdk.engines import Chain, Choice, choose, load_chain, problems
from dtir_sdk.engines.base import Problem
from dtir_sdk.engines.tensorrt.cuda import look
from dtir_sdk.faces import FaceFinder, alignment, crop_face
from dtir_sdk.files import write_atomically
from dtir_sdk.graphs import bundle_graph
from dtir_sdk.pictures import read_picture, swap_colors
from dtir_sdk.sources import SAMPLE_PORTRAIT

ROOT = Path(__file__).parents[1]
ENGINES = ("tensorrt", "tensorrt-rtx", "onnxruntime")
PACKAGES = ("tensorrt", "tensorrt-rtx", "onnxruntime-gpu", "cuda-bindings", "cuda-core", "pycuda")
BATCHES = (1, 8)
LEAST_PSNR = 32.0


def main() -> int:
    """Runs all parts and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="bundle to check; the default one if none")
    parser.add_argument("--rounds", type=int, default=300, help="measured rounds")
    parser.add_argument("--output", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--no-tests", action="store_true", help="leave the tests out")
    arguments = parser.parse_args()
    gpu = look()
    if isinstance(gpu, Problem):
        print(f"gpu_check: error: {gpu}", file=sys.stderr)
        return 2
    report: dict[str, Any] = {
        "gpu": asdict(gpu),
        "host": platform.platform(),
        "packages": versions_of(PACKAGES),
        "problems": {name: problem and str(problem) for name, problem in problems().items()},
        "tests": None if arguments.no_tests else run_tests(),
    }
    bundle = Bundle.open(arguments.bundle)
    report["bundle"] = {
        "name": bundle.manifest.name,
        "precision": {name: file.precision for name, file in bundle.manifest.files.items()},
    }
    crops = sample_crops(bundle.manifest.image_size)
    chains: dict[str, Chain] = {}
    report["loading"], report["parity"] = {}, {}
    for name in ENGINES:
        if report["problems"][f"{name} on cuda"] is None:
            chains[name], report["loading"][name] = build(bundle, choose(name, "cuda"))
    reference = open_chain(bundle, choose("onnxruntime", "cpu"))
    for name, chain in chains.items():
        report["parity"][name] = compare(chain, reference, crops)
    report["milliseconds"] = {
        f"batch {count}": measure(chains, crops[:count], arguments.rounds) for count in BATCHES
    }
    for chain in (*chains.values(), reference):
        chain.close()
    write_atomically(arguments.output, f"{json.dumps(report, indent=2)}\n".encode())
    print(json.dumps(report, indent=2))
    passed = report["tests"] is None or report["tests"]["exit_code"] == 0
    return 0 if passed and all(each["passed"] for each in report["parity"].values()) else 1


def run_tests() -> dict[str, Any]:
    """Runs the tests marked `gpu`; their skips and failures are in the text."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rsf", "tests/sdk/engines"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"exit_code": run.returncode, "output": run.stdout.splitlines()[-60:]}


def sample_crops(size: int) -> np.ndarray:
    """The sample portrait's face in sixteen shades, uint8 [16, S, S, 3] RGB."""
    portrait = read_picture(SAMPLE_PORTRAIT)
    face = FaceFinder(0.6).find(portrait)[0]
    crop = swap_colors(crop_face(portrait, alignment(face.landmarks, size), size))
    shades = np.linspace(0.5, 1.2, 16)[:, None, None, None]
    return np.clip(crop[None] * shades, 0, 255).astype(np.uint8)


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


def compare(chain: Chain, reference: Chain, crops: np.ndarray) -> dict[str, Any]:
    """Cartoons and labels against the reference's."""
    found, expected = chain.infer(crops), reference.infer(crops)
    difference = found.first.astype(np.float64) - expected.first
    psnr = float(10 * np.log10(255**2 / max((difference**2).mean(), 1e-12)))
    agreement = float((found.second.argmax(1) == expected.second.argmax(1)).mean())
    return {
        "psnr_db": psnr,
        "label_agreement": agreement,
        "passed": psnr >= LEAST_PSNR and agreement == 1.0,
    }


def measure(chains: dict[str, Chain], batch: np.ndarray, rounds: int) -> dict[str, Any]:
    """Medians and 95th percentiles: wall clock of a call, and the time on the card within it."""
    walls: dict[str, list[float]] = {name: [] for name in chains}
    inside: dict[str, list[float]] = {name: [] for name in chains}
    for number in range(-max(10, rounds // 10), rounds):
        for name, chain in random.sample(list(chains.items()), len(chains)):
            start = perf_counter()
            result = chain.infer(batch)
            wall = 1e3 * (perf_counter() - start)
            if number >= 0:
                walls[name].append(wall)
                inside[name].append(sum(result.milliseconds))
    return {
        name: {
            "median": float(np.median(walls[name])),
            "p95": float(np.percentile(walls[name], 95)),
            "engine_median": float(np.median(inside[name])),
        }
        for name in chains
    }


if __name__ == "__main__":
    sys.exit(main())
