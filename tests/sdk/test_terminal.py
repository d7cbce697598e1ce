from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_sdk.terminal import facts, progress_bar, table

words = st.text("abc-", min_size=1, max_size=12)


@given(st.lists(st.tuples(words, words, st.integers(0, 10**6).map(str)), max_size=5))
def test_a_table_has_a_line_a_row_and_its_cells_in_columns(rows):
    header = ("first", "second", "number")
    lines = table(header, rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert set(lines[1]) == {"-"}
    for row, line in zip([header, *rows], [lines[0], *lines[2:]], strict=True):
        assert tuple(line.split()) == row
        assert len(line) <= len(lines[1])


@given(st.dictionaries(words, st.lists(words, min_size=1, max_size=30).map(" ".join), min_size=1))
def test_facts_keep_every_word_within_the_width(named):
    lines = facts(named, 50).splitlines()
    assert max(map(len, lines)) <= 50
    found = [word for line in lines for word in line.split()]
    assert found == [word for name, text in named.items() for word in (name, *text.split())]


def test_facts_keep_the_indentation_of_lines():
    assert facts({"metrics": '{\n  "psnr": 26.6\n}'}, 80).splitlines() == [
        "  metrics  {",
        '             "psnr": 26.6',
        "           }",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_shown_on_a_terminal_only(terminal):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    with progress_bar("pictures", 4, 1, file=stream) as bar:
        bar.update(2)
    assert ("pictures" in stream.getvalue()) is terminal
