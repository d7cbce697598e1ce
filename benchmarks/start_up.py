"""Start-up of the SDK, each time in a new process: `python benchmarks/start_up.py`.

Measures importing `dtir_sdk` and the way from a bare interpreter to the first result on the sample
portrait, in interleaved rounds; and the installed size of the environment, in MB, without pip and
setuptools, which come with Python's venv. Needs dtir alone.

Writes start_up.json and start_up.md.
"""

from __future__ import annotations

import random
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from command import check_counts, one_line_errors, run_seconds
from conditions import write_report
from report import RESULTS, table

from dtir_sdk.files import check_writable

BARE = "a bare interpreter"
PROGRAMS = {
    BARE: "",
    "import dtir_sdk": "import dtir_sdk",
    "first result": (
        "from dtir_sdk import Pipeline, read_picture\n"
        "from dtir_sdk.sources import SAMPLE_PORTRAIT\n"
        "assert Pipeline()(read_picture(SAMPLE_PORTRAIT)).faces"
    ),
}
INSTALLERS = frozenset({"pip", "setuptools", "pkg_resources"})


def installed_size(environment: Path) -> float:
    """Returns the size of an environment in MB, without the installers."""
    total = 0
    for file in environment.rglob("*"):
        # `pip` is the package's own folder, `pip-26.0.dist-info` what was noted of it.
        names = {part.partition("-")[0] for part in file.relative_to(environment).parts}
        if file.is_file() and not file.is_symlink() and not names & INSTALLERS:
            total += file.stat().st_size
    return total / 1e6


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
        rounds: how many, after one that does not count.
        output: folder for the report.
    """

    rounds: int = 7
    output: Path = RESULTS


def main(arguments: Arguments) -> None:
    """Measures in interleaved rounds, prints and writes.

    Raises:
        DtirError: it cannot be measured or written.
    """
    check_counts(rounds=arguments.rounds)
    check_writable(arguments.output)
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(arguments.rounds + 1):
        for name, program in random.sample(list(PROGRAMS.items()), len(PROGRAMS)):
            taken = run_seconds(name, [sys.executable, "-c", program])
            if number:
                times[name].append(taken)
    bare = statistics.median(times[BARE])
    rows = []
    for name, values in times.items():
        median = statistics.median(values)
        rows.append([name, *(f"{value:.3f}" for value in (median, max(values), median - bare))])
    header = ["program", "median s", "worst s", "over a bare interpreter, s"]
    size = installed_size(Path(sys.prefix))
    lines = [
        "# Start-up",
        "",
        *table(header, rows),
        f"Installed: {size:.0f} MB beside pip and setuptools.",
    ]
    document = {"seconds": times, "installed_megabytes": size}
    write_report(arguments.output, "start_up", document, lines)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments, description=__doc__))
