"""Start-up of the SDK, each time in a new process: `python benchmarks/start_up.py`.

Prints medians, in seconds, of importing `dtir_sdk` and of the way from a bare interpreter to the
first result on the sample portrait; and the installed size of the environment, in MB, without
pip and setuptools, which come with Python's venv.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

ROUNDS = 7
PROGRAMS = {
    "a bare interpreter": "",
    "import dtir_sdk": "import dtir_sdk",
    "first result": (
        "from dtir_sdk import Pipeline, read_picture\n"
        "from dtir_sdk.sources import SAMPLE_PORTRAIT\n"
        "assert Pipeline()(read_picture(SAMPLE_PORTRAIT)).faces"
    ),
}
INSTALLERS = ("pip", "setuptools", "pkg_resources")


def seconds(program: str) -> float:
    """Runs a program in a new interpreter and returns how long that took."""
    start = perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return perf_counter() - start


def installed_size() -> float:
    """Returns the size of the running environment in MB, without the installers."""
    total = 0
    for file in Path(sys.prefix).rglob("*"):
        installer = any(part.startswith(INSTALLERS) for part in file.parts)
        if file.is_file() and not file.is_symlink() and not installer:
            total += file.stat().st_size
    return total / 1e6


def main() -> None:
    """Measures in interleaved rounds, after one that does not count, and prints."""
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(ROUNDS + 1):
        for name, program in PROGRAMS.items():
            taken = seconds(program)
            if number:
                times[name].append(taken)
    bare = statistics.median(times["a bare interpreter"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name}: {median:.3f} s ({median - bare:.3f} s over a bare interpreter)")
    print(f"installed: {installed_size():.0f} MB beside pip and setuptools")


if __name__ == "__main__":
    main()
