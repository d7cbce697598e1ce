from __future__ import annotations

import re

import pytest

from dtir_train.progress import TrainingProgress

LOSSES = {"total": 5.239, "recognition": 1.2573, "restoration": 0.3984}


@pytest.fixture(autouse=True)
def new_console(monkeypatch):
    """rich keeps one, of the terminal that it met first."""
    monkeypatch.setattr("rich._console", None)


@pytest.fixture
def shown(monkeypatch, capfd):
    """Shows step 18,234 of 24,376 in a terminal of so many columns; returns its last line."""

    def show(columns: int) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        with TrainingProgress(24376, 18200, visible=True) as progress:
            progress.advance(18234)
            progress.show(18234, LOSSES)
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capfd.readouterr().out)
        return plain.replace("\r", "\n").strip().splitlines()[-1]

    return show


@pytest.mark.parametrize(("columns", "all_losses"), [(80, False), (120, True)])
def test_a_terminal_shows_steps_times_and_losses_in_full(shown, columns, all_losses):
    line = shown(columns)
    assert "18234/24376" in line
    assert re.search(r"\d:\d\d:\d\d left", line)
    assert "total 5.24" in line
    assert ("recognition 1.257 restoration 0.398" in line) is all_losses
    assert "…" not in line


def test_a_log_file_gets_a_line_a_minute(monkeypatch, capfd):
    now = 0.0
    monkeypatch.setattr("dtir_train.progress.monotonic", lambda: now)
    with TrainingProgress(1000, 0, visible=True) as progress:
        for step in range(10, 101, 10):
            now += 15
            progress.advance(step)
            progress.show(step, LOSSES)
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.partition(":")[0] for line in lines] == ["step 40 of 1000", "step 80 of 1000"]
    assert "total 5.24 recognition 1.257 restoration 0.398" in lines[0]


def test_lines_are_printed_as_they_are(capfd):
    with TrainingProgress(2, 0, visible=True) as progress:
        progress.tell("no training pictures of [/alt], [bold]")
    assert "no training pictures of [/alt], [bold]" in capfd.readouterr().out


def test_what_is_not_visible_says_nothing(capfd):
    with TrainingProgress(2, 0, visible=False) as progress:
        progress.tell("something")
        progress.advance(1)
        progress.show(1, LOSSES)
    assert capfd.readouterr().out == ""
