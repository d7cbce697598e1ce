from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from dtir_export.fallback import Aim, Layers, choose_layers
from dtir_export.progress import Narrator
from dtir_sdk.errors import ConfigurationError

AIM = Aim(psnr=32.0, label_agreement=0.99)
NAMES = ("a", "b", "c", "d", "e", "f")


class Graph:
    """Every layer in INT8 adds its own error to the pictures."""

    def __init__(self, **errors: float) -> None:
        self.errors = dict.fromkeys(NAMES, 0.0) | errors
        self.runs: list[tuple[str, ...]] = []

    def __call__(self, names: Collection[str]) -> np.ndarray:
        self.runs.append(tuple(names))
        off = sum(self.errors[name] for name in names)
        return np.full((2, 4, 4, 3), 100 + round(off), np.uint8)


def test_nothing_is_kept_where_calibration_is_enough() -> None:
    graph = Graph(a=1, b=1)
    assert choose_layers("transfer", NAMES, graph, AIM, Narrator()) == Layers(NAMES, ())
    assert graph.runs == [(), NAMES]


def test_the_worst_are_kept_first() -> None:
    graph = Graph(b=5, e=9, c=3)
    chosen = choose_layers("transfer", NAMES, graph, AIM, Narrator())
    assert chosen == Layers(("a", "c", "d", "f"), ("e", "b"))
    # No layer more than needed: with the second worst in INT8 too the aim is missed.
    assert not AIM.reached(graph(()), graph(("a", "b", "c", "d", "f")))


def test_out_of_reach() -> None:
    graph = Graph(**dict.fromkeys(NAMES, 20.0))
    with pytest.raises(ConfigurationError, match=r"transfer.*3 of its 6 layers.*--fp16"):
        choose_layers("transfer", NAMES, graph, AIM, Narrator())


def test_just_within_reach() -> None:
    graph = Graph(a=20, c=30, e=40)
    chosen = choose_layers("restorer", NAMES, graph, AIM, Narrator())
    assert chosen == Layers(("b", "d", "f"), ("e", "c", "a"))


@pytest.mark.parametrize(("off", "reached"), [(5, True), (6, False)])
def test_pictures_need_a_margin(off: int, reached: bool) -> None:
    expected = np.full((1, 4, 4, 3), 100, np.uint8)
    # 34.2 and 32.6 dB: the second passes a gate of 32 dB, and is too near to it.
    assert AIM.reached(expected, expected + np.uint8(off)) is reached


@pytest.mark.parametrize(("differing", "reached"), [(0, True), (1, True), (2, False)])
def test_labels_need_a_margin(differing: int, reached: bool) -> None:
    expected = np.tile(np.array([[0.9, 0.1]], np.float32), (200, 1))
    found = expected.copy()
    found[:differing] = found[:differing, ::-1]
    assert AIM.reached(expected, found) is reached
