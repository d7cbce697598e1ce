from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dtir_sdk.errors import ConfigurationError


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    """The benchmark, and not the package of that name."""
    file = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_coverage", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"people": 0}, "people is 0: it must be 1 or more"),
        ({"people": -1}, "people is -1: it must be 1 or more"),
        ({"frames": 0}, "frames is 0: it must be 1 or more"),
        ({"rate": 0.0}, "rate is 0: it must be above 0"),
        ({"rate": float("nan")}, "rate is nan: it must be above 0"),
        ({"seed": -1}, "seed is -1: it must be 0 or more"),
        ({"detect_every": 0}, "detect_every must be a whole number of 1 or more, not 0"),
    ],
)
def test_what_would_measure_nothing_is_refused(coverage, tmp_path, option, message):
    with pytest.raises(ConfigurationError, match=message):
        coverage.main(coverage.Arguments(output=tmp_path / "out", **option))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shown", "detect_every", "code"), [(0, 1, 0), (3, 1, 1), (3, 2, 0)], ids=str
)
def test_a_face_that_is_shown_fails(coverage, tmp_path, monkeypatch, shown, detect_every, code):
    """But between two looks it may be shown."""
    found = [coverage.Leak(0, number, 0.1, 0.5, True) for number in range(shown)]
    monkeypatch.setattr(coverage, "leaks", lambda *_: (found, 0))
    arguments = coverage.Arguments(
        output=tmp_path, settings=("moderate",), people=1, detect_every=detect_every
    )
    assert coverage.main(arguments) == code
    report = json.loads((tmp_path / "coverage.json").read_text())
    assert report["moderate"]["uncovered"] == shown
