"""On a fake card."""

from __future__ import annotations

import json
import subprocess

import gpu_check
import pytest
from gpu_check import Arguments, main, run_tests

from dtir_sdk.errors import BundleError, ConfigurationError, EngineError


@pytest.fixture
def arguments(tmp_path):
    return lambda **given: Arguments(
        **{"rounds": 2, "output": tmp_path / "check.json", "tests": False, **given}
    )


def test_all_parts(machine, arguments, monkeypatch):
    machine()
    monkeypatch.setattr(gpu_check, "run_tests", lambda: {"exit_code": 0, "output": []})
    asked = arguments(tests=True)
    assert main(asked) == 0
    report = json.loads(asked.output.read_text())
    assert report["gpu"]["name"] == "NVIDIA Test 1"
    assert "there is none in the cache" in report["loading"]["tensorrt"]["first"]
    assert "anew" not in report["loading"]["tensorrt"]["again"]
    assert report["parity"]["tensorrt"]["passed"]
    assert report["parity"]["tensorrt"]["label_agreement"] == 1.0
    for count in (1, 8):
        figures = report["milliseconds"][f"batch {count}"]["tensorrt"]
        assert 0 < figures["median"] <= figures["p95"]
        assert figures["engine_median"] == 0.5


def test_failed_tests_fail(machine, arguments, monkeypatch):
    machine()
    monkeypatch.setattr(gpu_check, "run_tests", lambda: {"exit_code": 1, "output": []})
    assert main(arguments(tests=True)) == 1


def test_an_engine_that_differs_fails(machine, arguments, monkeypatch):
    machine()
    monkeypatch.setattr(gpu_check, "LEAST_PSNR", 1e3)
    assert main(arguments()) == 1


def test_nothing_checked_fails(machine, arguments, monkeypatch, capsys):
    """A card, and no engine that works on it."""
    machine(kind=None)
    monkeypatch.setattr(gpu_check, "ENGINES", ("tensorrt",))
    asked = arguments()
    assert main(asked) == 1
    assert json.loads(asked.output.read_text())["parity"] == {}
    err = capsys.readouterr().err
    assert err.startswith("gpu_check: no engine works on this card: tensorrt is not installed: ")
    assert err.count("\n") == 1


def test_no_card(machine, arguments):
    machine(gpu=None)
    with pytest.raises(EngineError, match="no NVIDIA GPU is here: "):
        main(arguments())


def test_mistakes_are_found_before_the_tests_run(machine, arguments, monkeypatch, tmp_path):
    machine()
    monkeypatch.setattr(gpu_check, "run_tests", lambda: pytest.fail("they ran"))
    with pytest.raises(BundleError, match="nowhere is not there"):
        main(arguments(bundle=tmp_path / "nowhere", tests=True))
    with pytest.raises(ConfigurationError, match="rounds is 0"):
        main(arguments(rounds=0, tests=True))


def test_all_tests_for_a_card_are_run(monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "9 passed\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert run_tests() == {"exit_code": 0, "output": ["9 passed"]}
    assert commands[0][1:] == ["-m", "pytest", "-m", "gpu", "-rsf", "tests"]
