from __future__ import annotations

import math
from pathlib import Path

import pytest

from dtir_sdk.errors import ConfigurationError

pytest.importorskip("av")
import live


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"deface": "no-such-program"}, "no-such-program is not on PATH and no file that can be"),
        ({"deface": str(Path(__file__))}, "test_live.py is not on PATH and no file that can be"),
        ({"rounds": 0}, "rounds is 0: it must be 1 or more"),
        ({"seconds": 0.0}, "seconds is 0: it must be 1 or more"),
        ({"seconds": math.nan}, "seconds is nan: it must be 1 or more"),
        ({"seed": -1}, "seed is -1: it must be 0 or more"),
        ({"still": 1}, "still is 1: it must be 2 or more"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(given, text, monkeypatch):
    monkeypatch.setattr(live, "Pipeline", lambda: pytest.fail("it was measured"))
    with pytest.raises(ConfigurationError, match=text):
        live.main(live.Arguments(**given))


def test_a_program_is_found_on_the_path_and_by_its_file(tmp_path, monkeypatch):
    program = tmp_path / "blur"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    # It is run in another folder.
    assert live.program("blur") == live.program("./blur") == live.program(str(program)) == program
