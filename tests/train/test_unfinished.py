from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dtir_sdk.errors import ConfigurationError
from dtir_train.unfinished import TRAINING_NAME, Unfinished


@pytest.fixture
def begun(small, tmp_path) -> Unfinished:
    return Unfinished(tmp_path / TRAINING_NAME, small(), ("disc", "square"), "0" * 64)


def test_what_was_kept_last_is_gone_on_with(begun):
    assert begun.load() is None
    for step in (3, 7):
        begun.save(step, {"recognizer": {"weight": torch.full((2,), float(step))}})
    kept = begun.load()
    assert kept.step == 7
    assert kept.tensors["recognizer"]["weight"].tolist() == [7, 7]


@pytest.mark.parametrize(
    "other",
    [
        lambda begun: {"configuration": replace(begun.configuration, seed=9)},
        lambda _: {"labels": ("square", "disc")},
        lambda _: {"pictures": "1" * 64},
    ],
    ids=["configuration", "labels", "pictures"],
)
def test_nothing_else_is_gone_on_with(begun, other):
    begun.save(3, {"recognizer": {"weight": torch.zeros(2)}})
    with pytest.raises(ConfigurationError, match="with other options, or on other pictures"):
        replace(begun, **other(begun)).load()
