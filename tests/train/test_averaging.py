from __future__ import annotations

import pytest
import torch
from torch import nn

from dtir_train.averaging import Averaged


def averages(decay: float, values: list[float]) -> list[float]:
    """What the average of a single weight is after each of its values."""
    network = nn.Linear(1, 1, bias=False)
    averaged, seen = Averaged(network, decay), []
    for value in values:
        nn.init.constant_(network.weight, value)
        averaged.update(network)
        seen.append(float(averaged.module.weight.detach()))
    return seen


def test_the_first_weights_are_taken_as_they_are():
    assert averages(0.9, [7.0]) == [7.0]


def test_the_decay_grows_up_to_its_limit():
    # (1 + n) / (10 + n): 2/11 and 3/12, and then the limit.
    one = 2 / 11 * 1.0 + 9 / 11 * 3.0
    two = 3 / 12 * one + 9 / 12 * 5.0
    three = 0.26 * two + 0.74 * 9.0
    assert averages(0.26, [1.0, 3.0, 5.0, 9.0]) == pytest.approx([1.0, one, two, three])


def average_of(buffer, values):
    """What becomes of a buffer of BatchNorm that had these values in turn."""
    network = nn.BatchNorm1d(1)
    averaged = Averaged(network, 0.9)
    for value in values:
        getattr(network, buffer).fill_(value)
        averaged.update(network)
    return getattr(averaged.module, buffer).item()


def test_statistics_are_averaged_too():
    assert average_of("running_mean", (0.0, 11.0)) == pytest.approx(9.0)


def test_the_copy_is_a_copy():
    network = nn.Linear(2, 2)
    averaged = Averaged(network, 0.9)
    before = averaged.module.weight.clone()
    nn.init.zeros_(network.weight)
    assert torch.equal(averaged.module.weight, before)


def test_what_is_counted_is_as_it_was_last():
    assert average_of("num_batches_tracked", (3, 8)) == 8
