from __future__ import annotations

import json

import pytest

from dtir_sdk.jobs.documents import labels_in, source_in


@pytest.mark.parametrize(
    "text",
    ["", "[]", "no JSON", '{"source": 1}', json.dumps({"source": "a\0b"}), "[" * 200_000],
)
def test_what_is_no_document_tells_of_no_picture(tmp_path, text):
    """A folder of results may hold anything under the name of one."""
    (tmp_path / "a.json").write_text(text)
    assert source_in(tmp_path / "a.json") is None
    assert labels_in(tmp_path / "a.json", {"bundle": "one"}) is None
