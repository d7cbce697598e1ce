from __future__ import annotations

import pytest

from dtir_sdk import Pipeline
from dtir_sdk.capture import Source
from dtir_sdk.errors import SourceError
from dtir_sdk.jobs.settings import Job
from dtir_sdk.jobs.streams import run_stream


@pytest.mark.parametrize("live", [True, False])
def test_a_source_without_a_frame_is_an_error(bundle, monkeypatch, tmp_path, live):
    empty = Source.open(iter(()), live=live)
    monkeypatch.setattr(Source, "open", lambda *_, **__: empty)
    lines = tmp_path / "labels.jsonl"
    with (
        Pipeline(bundle) as pipeline,
        pytest.raises(SourceError, match="the iterable of frames ended before its first frame"),
    ):
        run_stream(Job(source="0"), pipeline, "0", [str(lines)])
    assert not lines.exists()
