from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conditions import write_report

from dtir_sdk.errors import OutputError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_report_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written: not a directory"):
        write_report(tmp_path / "file" / "x", "networks", {}, [])


@pytest.mark.parametrize("name", ["ceiling", "coverage", "start_up", "training"])
def test_a_folder_that_cannot_be_written_is_told_before_the_work(name):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--output", f"{os.devnull}/x"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: error: nothing can be written to {os.devnull}")
