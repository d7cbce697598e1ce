from __future__ import annotations

import io

from dtir_export.progress import Narrator


def test_silent_by_default(capsys) -> None:
    narrator = Narrator()
    narrator.tell("something")
    assert list(narrator.track([1, 2], "items", 2)) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_plain_lines_off_a_terminal() -> None:
    stream = io.StringIO()
    narrator = Narrator(stream)
    narrator.tell("[bold]a path[/bold] " + "x" * 200)
    assert list(narrator.track([1, 2], "items", 2)) == [1, 2]
    assert stream.getvalue() == "[bold]a path[/bold] " + "x" * 200 + "\nitems\n"


def test_bar_on_a_terminal() -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True
    narrator = Narrator(stream)
    assert list(narrator.track([1, 2], "items", 2)) == [1, 2]
    assert "items" in stream.getvalue()
