from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from interleaved import Spread
from training import COMPILED, NAIVE, OURS, Arguments, Row, compare, draw_pictures, lines, main

from dtir_sdk.errors import ConfigurationError
from dtir_train.configuration import PRESETS
from dtir_train.datasets.sources import open_source


def test_lines_compare_with_the_first_loop():
    rows = [
        Row(NAIVE, 10, Spread(1600, 1700), 0.125),
        Row(OURS, 20, Spread(800, 900), 0.01),
        Row(COMPILED, 25, Spread(640, 700), 0.002),
    ]
    text = lines(rows, 12.5, "edge", 128)
    assert "| first loop | 10.0 | 1.00x | 1600 | 1700 | 12.5% |" in text
    assert "| dtir, compiled | 25.0 | 2.50x | 640 | 700 | 0.2% |" in text


def test_drawings_are_sources(tmp_path):
    secret, target = draw_pictures(tmp_path, 32)
    assert {entry.label for entry in open_source(secret, "male").entries} == {"0", "1"}
    assert len(open_source(secret, None).entries) == len(open_source(target, None).entries) == 256


@pytest.mark.parametrize("name", ["rounds", "steps"])
def test_nothing_measured_is_refused(name):
    with pytest.raises(ConfigurationError, match=f"{name} is 0: it must be 1 or more"):
        main(Arguments(**{name: 0}))


def test_fewer_than_no_workers_are_refused():
    with pytest.raises(ConfigurationError, match="workers is -1: it must be 0 or more"):
        main(Arguments(workers=-1))


def test_the_first_loop_refuses_a_loss_that_it_has_not(tmp_path):
    secret, target = draw_pictures(tmp_path, 32)
    paper = PRESETS["paper"]
    data = dataclasses.replace(paper.data, secret=(str(secret),), target=(str(target),))
    made = dataclasses.replace(paper, data=data)
    with pytest.raises(ConfigurationError, match="least squares only, and the recipe cross-entro"):
        compare(made, compiled=False, workers=0, rounds=1, steps=1)


@pytest.mark.slow
def test_every_loop_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("DTIR_CACHE", str(tmp_path / "cache"))
    secret, target = draw_pictures(tmp_path, 32)
    tiny = PRESETS["tiny"]
    data = dataclasses.replace(
        tiny.data, secret=(str(secret),), target=(str(target),), attribute="male"
    )
    recipe = dataclasses.replace(tiny.recipe, similarity_weight=1.0)
    made = dataclasses.replace(tiny, data=data, recipe=recipe)
    rows, alone = compare(made, compiled=False, workers=0, rounds=1, steps=2)
    assert [row.name for row in rows] == [NAIVE, OURS]
    for row in rows:
        assert row.pictures_a_second == pytest.approx(16e3 / row.step.median)
        assert 0 <= row.waiting < 1
    assert alone > 0
    assert Path(tmp_path / "cache").is_dir()
