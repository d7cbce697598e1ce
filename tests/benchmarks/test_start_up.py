from __future__ import annotations

import pytest
import start_up
from command import PeerError
from start_up import Arguments, installed_size, main

from dtir_sdk.errors import ConfigurationError


def test_only_the_installers_do_not_count(tmp_path):
    """Wherever the environment lies, and whatever else begins as they do."""
    packages = tmp_path / "pipeline" / "setuptools" / "lib" / "site-packages"
    for name, size in {
        "pip/main.py": 10,
        "pip-26.0.dist-info/RECORD": 20,
        "setuptools/wheel.py": 40,
        "pipdeptree/main.py": 1000,
        "numpy/core.so": 2000,
    }.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(bytes(size))
    assert installed_size(tmp_path / "pipeline" / "setuptools") == pytest.approx(3000 / 1e6)


def test_nothing_measured_is_refused():
    with pytest.raises(ConfigurationError, match="rounds is 0: it must be 1 or more"):
        main(Arguments(rounds=0))


def test_a_program_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(start_up.PROGRAMS, "first result", "raise SystemExit('no face')")
    with pytest.raises(PeerError, match="first result failed with exit code 1: no face"):
        main(Arguments(rounds=1, output=tmp_path))
    assert not list(tmp_path.iterdir())
