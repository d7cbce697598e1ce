from __future__ import annotations

import os

from report import surroundings


def test_a_system_that_does_not_tell_its_load(monkeypatch):
    """As Windows does not."""
    monkeypatch.delattr(os, "getloadavg")
    assert surroundings()["load"] is None
