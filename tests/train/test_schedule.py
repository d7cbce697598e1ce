from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_train.configuration import Recipe
from dtir_train.schedule import Schedule

epochs = st.floats(0.01, 20)


@st.composite
def recipes(draw) -> Recipe:
    total = draw(epochs)
    return Recipe(
        epochs=total,
        constant_epochs=draw(st.floats(0, 30)),
        settle_epochs=draw(st.floats(0, 1)) * total,
    )


def test_the_rate_is_constant_and_then_falls_linearly_to_0():
    schedule = Schedule.of(Recipe(epochs=4, constant_epochs=2, learning_rate=0.8), 2)
    rates = [schedule.rate(step) for step in range(8)]
    assert rates == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.8, 0.6, 0.4, 0.2])
    assert schedule.rate(8) == 0


def test_the_last_epochs_settle():
    schedule = Schedule.of(Recipe(epochs=4, constant_epochs=2, settle_epochs=1.5), 10)
    assert schedule.steps == 40
    settling = [step for step in range(40) if schedule.settles(step)]
    assert settling == list(range(25, 40))


def test_nothing_settles_by_default():
    schedule = Schedule.of(Recipe(epochs=4, constant_epochs=2), 10)
    assert not any(schedule.settles(step) for step in range(schedule.steps))


@given(recipes(), st.integers(1, 500))
def test_every_step_has_a_rate_that_never_rises(recipe, steps_an_epoch):
    schedule = Schedule.of(recipe, steps_an_epoch)
    assert schedule.steps >= 1
    sample = sorted({*range(min(schedule.steps, 50)), schedule.constant_steps, schedule.steps - 1})
    rates = [schedule.rate(step) for step in sample if step < schedule.steps]
    # Give or take the last digit of a float.
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(rates))
    assert all(0 < rate <= recipe.learning_rate * (1 + 1e-12) for rate in rates)


@given(recipes(), st.integers(1, 500))
def test_settling_once_begun_goes_on_to_the_end(recipe, steps_an_epoch):
    schedule = Schedule.of(recipe, steps_an_epoch)
    settling = [schedule.settles(step) for step in range(schedule.steps)]
    assert settling == sorted(settling)
    assert sum(settling) == min(schedule.steps, round(recipe.settle_epochs * steps_an_epoch))
