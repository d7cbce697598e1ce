from __future__ import annotations

import memory_and_cold_start
import pytest
from memory_and_cold_start import Arguments, main

from dtir_sdk.errors import ConfigurationError


def test_nothing_measured_is_refused(monkeypatch):
    monkeypatch.setattr(memory_and_cold_start, "preset_subject", lambda *_: pytest.fail("begun"))
    with pytest.raises(ConfigurationError, match="rounds is 0: it must be 1 or more"):
        main(Arguments(rounds=0))
