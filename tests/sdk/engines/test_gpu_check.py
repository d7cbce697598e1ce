"""`benchmarks/gpu_check.py`, on a fake card."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu_check.py"


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Runs the script; returns its exit code and what it wrote."""

    def run(*words: str) -> tuple[int, dict]:
        output = tmp_path / "check.json"
        arguments = [str(SCRIPT), "--no-tests", "--rounds", "2", "--output", str(output), *words]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return ended.value.code, json.loads(output.read_text()) if output.exists() else {}

    return run


def test_all_parts(machine, check):
    machine()
    code, report = check()
    assert code == 0
    assert report["gpu"]["name"] == "NVIDIA Test 1"
    assert "there is none in the cache" in report["loading"]["tensorrt"]["first"]
    assert "anew" not in report["loading"]["tensorrt"]["again"]
    assert report["parity"]["tensorrt"]["passed"]
    assert report["parity"]["tensorrt"]["label_agreement"] == 1.0
    for count in (1, 8):
        figures = report["milliseconds"][f"batch {count}"]["tensorrt"]
        assert 0 < figures["median"] <= figures["p95"]
        assert figures["engine_median"] == 0.5


def test_no_card(machine, check, capsys):
    machine(gpu=None)
    code, report = check()
    assert (code, report) == (2, {})
    err = capsys.readouterr().err
    assert err.startswith("gpu_check: error: no NVIDIA GPU is here: ")
    assert err.count("\n") == 1
