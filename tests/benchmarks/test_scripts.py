"""Each benchmark runs, in small, and finds what it is there to find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dtir_sdk.conditions import versions_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, *arguments: str, output: Path) -> tuple[int, dict]:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *arguments, "--output", output],
        capture_output=True,
        text=True,
        check=False,
    )
    report = output / f"{name}.json"
    assert report.is_file(), done.stderr
    assert (output / f"{name}.md").read_text() in done.stdout
    return done.returncode, json.loads(report.read_text())


@pytest.mark.slow
def test_start_up(tmp_path):
    code, found = run("start_up", "--rounds", "1", output=tmp_path)
    assert code == 0
    assert [len(times) for times in found["seconds"].values()] == [1, 1, 1]
    assert found["installed_megabytes"] > 100


def test_versions_are_of_what_is_installed():
    assert versions_of(("numpy", "no-such-package")) == {"numpy": np.__version__}


@pytest.mark.slow
def test_soak(tmp_path):
    """Less than a minute cannot tell growth from warming up, but every fault is reported."""
    code, found = run("soak", "--minutes", "0.3", "--growth", "20", output=tmp_path)
    assert [sample for sample in found["samples"] if not sample["as_expected"]] == []
    assert len({sample["episode"] for sample in found["samples"]}) == 8
    assert found["threads_varied_by"] == 0
    assert code == 0


@pytest.mark.slow
def test_the_soak_sees_a_leak(tmp_path):
    code, found = run("soak", "--minutes", "0.3", "--growth", "20", "--leak", "20", output=tmp_path)
    assert found["growth_mb"] > 20
    assert code == 1


@pytest.mark.slow
def test_coverage(tmp_path):
    words = ("--settings", "moderate", "--people", "1", "--frames", "60")
    code, found = run("coverage", *words, output=tmp_path)
    assert code == 0
    assert (found["moderate"]["frames"], found["moderate"]["uncovered"]) == (60, 0)


@pytest.mark.slow
def test_coverage_sees_what_is_shown(tmp_path):
    """With a look every 0.25 s only, a very fast face gets out from under its cover."""
    words = ("--settings", "very-fast", "--people", "1", "--rate", "60", "--frames", "60")
    _, found = run("coverage", *words, "--detect-every", "60", output=tmp_path)
    assert found["very-fast"]["uncovered"] > 10


@pytest.mark.slow
def test_live(tmp_path):
    pytest.importorskip("av")
    words = ("--seconds", "1", "--rounds", "1", "--still", "10")
    code, found = run("live", *words, output=tmp_path)
    assert code == 0
    assert [(one["faces"], one["rate"]) for one in found["live"]] == [
        (1, 30.0),
        (1, 60.0),
        (4, 30.0),
        (4, 60.0),
    ]
    assert all(one["results"] > 0 and one["found"] > 0.9 for one in found["live"])
    assert found["film"]["frames"] == 30
    flicker = found["flicker"]
    assert flicker["followed_shown"] <= min(flicker["alone_shown"], flicker["camera"])
