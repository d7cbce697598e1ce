from __future__ import annotations

import math

import pytest
import soak

from dtir_sdk.errors import ConfigurationError


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"leak": -1.0}, "leak is -1: it must be 0 or more"),
        ({"leak": math.inf}, "leak is inf: it must be 0 or more"),
        ({"minutes": math.nan}, "minutes is nan: it must be 0 or more"),
        ({"growth": -1.0}, "growth is -1: it must be 0 or more"),
    ],
)
def test_mistakes_are_found_before_anything_is_run(given, text, monkeypatch):
    monkeypatch.setattr(soak, "Pipeline", lambda: pytest.fail("it was run"))
    with pytest.raises(ConfigurationError, match=text):
        soak.main(soak.Arguments(**given))
