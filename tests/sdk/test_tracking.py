from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtir_sdk.errors import ConfigurationError
from dtir_sdk.faces import TEMPLATE, FoundFace
from dtir_sdk.tracking import LONGEST_WITHOUT_LOOK, Tracker

RATE = 30.0


def face(x: float, y: float, side: float = 60.0, confidence: float = 0.9) -> FoundFace:
    """A face whose box has its centre at x, y."""
    landmarks = ((TEMPLATE - TEMPLATE.mean(axis=0)) * 2 * side + (x, y)).astype(np.float32)
    box = (round(x - side / 2), round(y - side / 2), round(side), round(side))
    return FoundFace(box, landmarks, confidence)


def test_two_people_who_pass_keep_their_numbers():
    tracker = Tracker()
    for step in range(60):
        x = 50.0 + 8 * step
        found = [face(x, 100), face(530 - x, 190)]
        tracked = tracker.update(found[:: 1 if step % 2 else -1], step / RATE)
        at = {one.track: one.landmarks.mean(axis=0) for one in tracked}
        assert set(at) == {1, 2}
        if step == 0:
            right = 1 if at[1][0] < at[2][0] else 2
        assert at[right][1] == pytest.approx(100, abs=15)


def test_of_two_who_are_near_each_is_given_the_face_nearest_to_them():
    tracker = Tracker()
    tracker.update([face(100, 100), face(150, 100)], 0.0)
    tracked = tracker.update([face(140, 100), face(95, 100)], 1 / RATE)
    at = {one.track: one.landmarks.mean(axis=0)[0] for one in tracked}
    assert at[1] < 100
    assert at[2] > 130


def test_the_box_is_the_detectors_however_it_lies_about_the_landmarks():
    found = replace(face(100, 100), box=(60, 50, 70, 120))
    (tracked,) = Tracker().update([found], 0.0)
    assert tracked.box == found.box


def test_the_largest_comes_first():
    tracked = Tracker().update([face(50, 50, 40), face(200, 200, 90)], 0.0)
    assert [one.box[2] for one in tracked] == [90, 40]


def test_a_lost_face_is_held_and_then_let_go():
    tracker = Tracker(hold=0.5)
    tracker.update([face(100, 100)], 0.0)
    for step in range(1, 16):
        (held,) = tracker.update([], step / RATE)
        assert held.track == 1
        assert not held.seen
        assert held.unseen == pytest.approx(step / RATE)
    assert tracker.update([], 0.6) == ()


def test_a_hold_of_0_lets_go_at_once():
    tracker = Tracker(hold=0.0)
    assert len(tracker.update([face(100, 100)], 0.0)) == 1
    assert tracker.update([], 1 / RATE) == ()


def test_frames_without_a_look_neither_lose_nor_hold():
    tracker = Tracker(hold=0.1)
    tracker.update([face(100, 100)], 0.0)
    for step in range(1, 7):
        (kept,) = tracker.update(None, step / RATE)
        assert kept.seen
        assert kept.unseen == 0


@pytest.mark.parametrize("hold", [0.1, 1.0])
def test_without_a_look_for_long_nobody_is_held(hold):
    tracker = Tracker(hold=hold)
    tracker.update([face(100, 100)], 0.0)
    assert tracker.update(None, max(hold, LONGEST_WITHOUT_LOOK) + 0.01) == ()


def test_a_lost_face_is_let_go_between_looks_too():
    tracker = Tracker(hold=0.1)
    tracker.update([face(100, 100)], 0.0)
    tracker.update([], 0.05)
    (held,) = tracker.update(None, 0.1)
    assert held.unseen == pytest.approx(0.1)
    assert tracker.update(None, 0.11) == ()


def test_a_face_that_is_lost_in_a_frame_of_the_same_time_is_lost():
    tracker = Tracker()
    tracker.update([face(100, 100)], 1.0)
    (held,) = tracker.update([], 1.0)
    assert not held.seen


def test_a_face_that_comes_back_is_the_same_person():
    tracker = Tracker()
    tracker.update([face(100, 100)], 0.0)
    for step in range(1, 6):
        tracker.update([], step / RATE)
    (back,) = tracker.update([face(110, 100)], 6 / RATE)
    assert back.track == 1
    assert back.seen


def test_a_face_elsewhere_is_somebody_else():
    tracker = Tracker()
    tracker.update([face(100, 100)], 0.0)
    tracked = tracker.update([face(400, 300)], 1 / RATE)
    assert {(one.track, one.seen) for one in tracked} == {(1, False), (2, True)}


def test_a_face_of_quite_another_size_is_somebody_else():
    tracker = Tracker()
    tracker.update([face(100, 100, 60)], 0.0)
    (nearer,) = tracker.update([face(100, 100, 90)], 1 / RATE)
    assert nearer.track == 1
    tracked = tracker.update([face(100, 100, 500)], 2 / RATE)
    assert {(one.track, one.seen) for one in tracked} == {(1, False), (2, True)}


def test_a_faint_face_is_followed_but_not_begun():
    tracker = Tracker(confidence=0.6)
    assert tracker.update([face(100, 100, confidence=0.4)], 0.0) == ()
    tracker.update([face(100, 100, confidence=0.8)], 1 / RATE)
    (followed,) = tracker.update([face(102, 100, confidence=0.4)], 2 / RATE)
    assert followed.seen


def test_a_still_face_trembles_less_than_the_detector():
    random = np.random.default_rng(0)
    tracker = Tracker()
    given_, tracked = [], []
    for step in range(120):
        found = face(*(100 + random.normal(0, 1.0, 2)))
        (one,) = tracker.update([found], step / RATE)
        given_.append(found.landmarks.mean(axis=0))
        tracked.append(one.landmarks.mean(axis=0))
    trembling = np.abs(np.diff(tracked[20:], axis=0)).mean()
    assert trembling < 0.5 * np.abs(np.diff(given_[20:], axis=0)).mean()


def test_the_lag_of_the_smoothed_landmarks_is_told():
    tracker = Tracker()
    (still,) = tracker.update([face(100, 100)], 0.0)
    assert still.lag == 0
    found = face(102, 100)
    (moved,) = tracker.update([found], 1 / RATE)
    away = np.hypot(*(found.landmarks - moved.landmarks).T).max()
    assert moved.lag == pytest.approx(away, rel=1e-3)
    assert 0.5 < moved.lag < 2


@pytest.mark.parametrize("speed", [60.0, 300.0, 900.0])
def test_a_moving_face_is_kept_up_with(speed):
    """Pixels a second; a face of 60 pixels may be missed by a quarter of it at most."""
    tracker = Tracker()
    for step in range(45):
        x = 100 + speed * step / RATE
        (one,) = tracker.update([face(x, 100)], step / RATE)
        assert abs(one.landmarks.mean(axis=0)[0] - x) < 15


def test_a_moving_face_that_is_lost_moves_on():
    tracker = Tracker()
    for step in range(15):
        tracker.update([face(100 + 10 * step, 100)], step / RATE)
    (lost,) = tracker.update([], 16 / RATE)
    assert lost.landmarks.mean(axis=0)[0] > 246
    far = [tracker.update([], (17 + step) / RATE)[0] for step in range(25)]
    assert far[-1].landmarks.mean(axis=0)[0] < 246 + 10 * 12


def test_a_lost_face_keeps_its_shape():
    """Its points moved apart while it came nearer, each at a speed of its own."""
    tracker = Tracker()
    for step in range(15):
        (seen,) = tracker.update([face(100 + 5 * step, 100, 60 + 4 * step)], step / RATE)
    for step in range(15, 25):
        (lost,) = tracker.update([], step / RATE)
    assert lost.landmarks.mean(axis=0)[0] > seen.landmarks.mean(axis=0)[0] + 5
    shapes = [one.landmarks - one.landmarks.mean(axis=0) for one in (seen, lost)]
    assert np.abs(shapes[1] - shapes[0]).max() < 0.1


def test_who_was_forgotten_gets_a_new_number():
    tracker = Tracker()
    tracker.update([face(100, 100)], 0.0)
    tracker.forget()
    (new,) = tracker.update([face(100, 100)], 0.1)
    assert new.track == 2


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 2),
            st.none()
            | st.lists(
                st.tuples(
                    st.floats(-50, 700), st.floats(-50, 500), st.floats(2, 400), st.floats(0.3, 1)
                ),
                max_size=4,
            ),
        ),
        max_size=12,
    )
)
def test_every_found_face_is_tracked_whatever_comes(frames):
    tracker = Tracker(hold=1.0)
    seconds, numbers = 0.0, set()
    for passed, faces in frames:
        seconds += passed
        found = None if faces is None else [face(*values) for values in faces]
        tracked = tracker.update(found, seconds)
        each = [one.track for one in tracked]
        assert len(set(each)) == len(each)
        numbers |= set(each)
        assert all(np.isfinite(one.landmarks).all() and one.unseen <= 1 for one in tracked)
        if found is not None:
            sure = sum(one.confidence >= 0.6 for one in found)
            assert sum(one.seen for one in tracked) >= sure
    assert numbers == set(range(1, len(numbers) + 1))


@pytest.mark.parametrize("hold", [-1.0, math.nan, math.inf])
def test_a_bad_hold(hold):
    with pytest.raises(ConfigurationError, match="hold must be"):
        Tracker(hold=hold)
