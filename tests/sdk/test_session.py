from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from dtir_sdk import Pipeline
from dtir_sdk.drawing import neutral_card
from dtir_sdk.errors import ConfigurationError, EngineError, PictureError
from dtir_sdk.faces import FaceFinder
from dtir_sdk.results import FrameStamp
from dtir_sdk.session import Following

RATE = 30.0


@pytest.fixture(scope="module")
def pipeline(bundle):
    with Pipeline(bundle) as made:
        yield made


@pytest.fixture(scope="module")
def small(portrait) -> np.ndarray:
    return np.ascontiguousarray(portrait[::2, ::2])


def shifted(picture: np.ndarray, x: int) -> np.ndarray:
    """The picture, further right, on a frame of one size."""
    frame = np.full((picture.shape[0], picture.shape[1] + 200, 3), 60, np.uint8)
    frame[:, x : x + picture.shape[1]] = picture
    return frame


def test_a_face_keeps_its_number_while_it_moves(pipeline, small):
    session = pipeline.video()
    for step in range(8):
        result = session(shifted(small, 8 * step), step / RATE)
        (face,) = result.faces
        assert face.track == 1
        assert face.seen
        assert (result.stamp.number, result.stamp.seconds) == (step, step / RATE)
        document = result.to_dict()
        assert document["frame"] == step
        assert document["faces"][0]["track"] == 1


def test_a_lost_face_stays_covered_and_then_gives_a_card(pipeline, small):
    session = pipeline.video(Following(hold=0.2))
    seen = session(small, 0.0)
    # The detector cannot find the blurred face; whatever is shown of it must be covered.
    lost = np.random.default_rng(0).integers(0, 256, small.shape, dtype=np.uint8)
    held = session(lost, 0.1)
    (face,) = held.faces
    assert not face.seen
    assert np.array_equal(face.cartoon, seen.faces[0].cartoon)
    for x, y in seen.faces[0].landmarks.astype(int):
        patch = (slice(y - 2, y + 3), slice(x - 2, x + 3))
        # Of noise, a cartoon is smooth.
        assert held.image[patch].std(axis=(0, 1)).max() < 30 < lost[patch].std(axis=(0, 1)).min()
    card = session(lost, 0.5)
    assert card.faces == ()
    assert card.image.min() >= 128


def test_once_a_held_face_has_left_the_frame_there_is_a_card(pipeline, small):
    session = pipeline.video()
    height, width = small.shape[:2]
    for number in range(20):
        move = np.array([[1, 0, 30 * number], [0, 1, 0]], np.float32)
        frame = cv2.warpAffine(small, move, (width, height), borderValue=(60, 60, 60))
        result = session(frame, number / RATE)
    (held,) = result.faces
    assert not held.seen
    assert np.array_equal(result.image, neutral_card(height, width))


def test_the_cover_of_a_lost_face_grows(pipeline, small):
    session = pipeline.video()
    wide = shifted(small[::2, ::2], 100)
    session(wide, 0.0)
    lost = np.zeros_like(wide)
    areas = [int((session(lost, 0.2 * step).image > 0).any(axis=2).sum()) for step in (1, 2, 3)]
    assert areas == sorted(areas)
    assert areas[-1] > 1.3 * areas[0]


def test_the_cover_of_a_lost_face_grows_no_further_than_to_twice(pipeline, small):
    session = pipeline.video(Following(hold=3.0))
    wide = shifted(small[::2, ::2], 100)
    session(wide, 0.0)
    lost = np.zeros_like(wide)
    images = [session(lost, seconds).image for seconds in (1.0, 2.0, 3.0)]
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[1], images[2])


def test_the_parts_of_the_time_are_all_of_it(pipeline, small):
    timings = pipeline.video()(small, 0.0).timings
    parts = timings.detect + timings.align + timings.transfer + timings.recognize + timings.compose
    assert parts == pytest.approx(timings.total, rel=1e-6)
    assert 0 < timings.transfer_engine < timings.transfer


def test_the_cover_reaches_where_the_face_was_found(pipeline, small):
    """However far the smoothed place lags behind."""
    session = pipeline.video()
    look = session.look(np.zeros_like(small), FrameStamp(0, 0.0, 0.0))
    (face,) = FaceFinder().find(small)
    moved = replace(face, landmarks=face.landmarks + np.array([4, 0], np.float32))
    extents = []
    for number, found in enumerate((face, moved)):
        stamp = FrameStamp(number, number / RATE, 0.0)
        image = session.cover(replace(look, found=(found,), stamp=stamp)).image
        # The tiny transfer generator makes white of black.
        extents.append(np.flatnonzero((image == 255).any(axis=(0, 2))))
    before, after = extents
    assert after.max() >= before.max() + 4
    assert after.min() <= before.min() + 4


def test_a_person_is_followed_where_somebody_new_would_not_be_found(pipeline, small):
    noise = np.random.default_rng(0).integers(0, 256, small.shape)
    finder = FaceFinder(0.3)
    for share in np.arange(0.3, 0.7, 0.01):
        faint = (small * (1 - share) + noise * share).astype(np.uint8)
        if [0.35 < face.confidence < 0.55 for face in finder.find(faint)] == [True]:
            break
    assert pipeline.video()(faint, 0.0).faces == ()
    session = pipeline.video()
    session(small, 0.0)
    (followed,) = session(faint, 1 / RATE).faces
    assert (followed.track, followed.seen) == (1, True)


def test_between_looks_the_face_is_covered_where_it_was(pipeline, small):
    session = pipeline.video(Following(detect_every=3))
    looks = [session.look(small, FrameStamp(step, step / RATE, 0.0)) for step in range(6)]
    assert [look.found is None for look in looks] == [False, True, True, False, True, True]
    results = [session.cover(look) for look in looks]
    assert [len(result.faces) for result in results] == [1] * 6
    assert {face.track for result in results for face in result.faces} == {1}


@pytest.mark.parametrize("gap", [0.3, 600.0])
def test_after_a_gap_faces_are_looked_for(pipeline, small, gap):
    session = pipeline.video(Following(detect_every=5))
    session(shifted(small, 0), 0.0)
    moved = shifted(small, 200)
    image = session(moved, gap).image
    (face,) = FaceFinder().find(moved)
    for x, y in face.landmarks.astype(int):
        # The tiny transfer generator inverts.
        assert np.abs(image[y, x].astype(int) - moved[y, x]).max() > 30


def test_after_a_look_by_the_clock_frames_are_counted_anew(pipeline, small):
    session = pipeline.video(Following(detect_every=3))
    times = [0.0, 0.1, 0.4, 0.5, 0.6, 0.65]
    looks = [session.look(small, FrameStamp(n, at, 0.0)) for n, at in enumerate(times)]
    assert [look.found is not None for look in looks] == [True, False, True, False, False, True]


def test_labels_are_steadied(pipeline, small):
    """The tiny recognizer reads red against blue: one odd frame must not turn the label."""
    session = pipeline.video()
    for step in range(20):
        before = session(small, step / RATE).faces[0]
    odd = np.ascontiguousarray(small[..., ::-1])
    at_once = pipeline.video()(odd, 0.0).faces[0]
    assert at_once.label != before.label
    steadied = session(odd, 20 / RATE).faces[0]
    assert steadied.label == before.label
    assert sum(steadied.probabilities.values()) == pytest.approx(1, abs=1e-5)
    for step in range(21, 80):
        after = session(odd, step / RATE).faces[0]
    assert after.label == at_once.label


def test_a_still_face_does_not_flicker(small):
    """Of the model that ships: what is shown changes less than what a noisy camera gives."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 3, (12, *small.shape))
    frames = np.clip(np.rint(small + noise), 0, 255).astype(np.uint8)
    with Pipeline() as ours:
        session = ours.video()
        results = [session(frame, number / RATE) for number, frame in enumerate(frames)]
    x, y, width, height = results[0].faces[0].box

    def change(pictures) -> float:
        face = np.stack(pictures)[:, y : y + height, x : x + width].astype(float)
        return float(np.abs(np.diff(face, axis=0)).mean())

    assert change([result.image for result in results]) < change(frames)


def test_sessions_stand_for_themselves(pipeline, small, blank):
    one, other = pipeline.video(), pipeline.video()
    one(small, 0.0)
    assert other(blank, 0.0).faces == ()
    assert one(small, 0.1).faces[0].track == 1


def test_the_largest_only_covers_the_others(bundle, small):
    couple = np.full((small.shape[0], 2 * small.shape[1], 3), 60, np.uint8)
    couple[:, : small.shape[1]] = small
    couple[: small.shape[0] // 2, small.shape[1] : small.shape[1] * 3 // 2] = small[::2, ::2]
    with Pipeline(bundle) as every:
        minor = every(couple).faces[1]
    with Pipeline(bundle, faces="largest") as largest:
        result = largest.video()(couple, 0.0)
    assert len(result.faces) == 1
    for x, y in minor.landmarks.astype(int):
        assert np.abs(result.image[y, x].astype(int) - 128).max() <= 1


@pytest.mark.parametrize("surround", ["keep", "blur", "blank"])
def test_surroundings(bundle, small, surround):
    with Pipeline(bundle, surround=surround) as pipeline:
        image = pipeline.video()(small, 0.0).image
    assert np.array_equal(image[-20:], small[-20:]) == (surround == "keep")
    assert bool((image[-20:] == 128).all()) == (surround == "blank")


def test_rgb(bundle, pipeline, small):
    bgr = pipeline.video()(small, 0.0)
    with Pipeline(bundle, color="rgb") as other:
        rgb = other.video()(small[..., ::-1], 0.0)
    assert rgb.color == "rgb"
    assert np.array_equal(rgb.image[..., ::-1], bgr.image)
    assert np.array_equal(rgb.faces[0].cartoon[..., ::-1], bgr.faces[0].cartoon)


def test_results_are_the_callers_own(pipeline, small):
    session = pipeline.video()
    first = session(small, 0.0)
    cartoon = first.faces[0].cartoon.copy()
    first.faces[0].cartoon[:] = 0
    first.image[:] = 0
    held = session(np.zeros_like(small), 0.1)
    assert np.array_equal(held.faces[0].cartoon, cartoon)


def test_a_probability_that_is_taken_away_is_the_callers(pipeline, small):
    session = pipeline.video()
    session(small, 0.0).faces[0].probabilities.clear()
    assert session(small, 0.1).faces[0].probabilities


def test_time_does_not_go_back(pipeline, small):
    session = pipeline.video()
    session(small, 1.0)
    with pytest.raises(ConfigurationError, match="in the order of their time"):
        session(small, 0.5)


@pytest.mark.parametrize(
    "seconds", [float("nan"), float("inf"), -float("inf"), None, "0", np.float32("nan")]
)
def test_a_time_that_is_none(pipeline, small, seconds):
    session = pipeline.video()
    with pytest.raises(ConfigurationError, match="seconds must be a finite number, not"):
        session(small, seconds)
    assert session(small, 0.0).stamp.number == 0


def test_times_of_other_types(pipeline, small):
    """PyAV's are fractions, and NumPy's no JSON."""
    session = pipeline.video()
    for seconds in (Fraction(1, 3), np.float32(0.5), np.int64(1)):
        document = json.loads(session(small, seconds).to_json())
        assert document["seconds"] == pytest.approx(float(seconds), abs=1e-6)


@pytest.mark.parametrize("step", [(-30, 0), (30, 0), (0, 30)])
def test_the_box_of_a_face_that_leaves_the_frame_lies_in_it(pipeline, small, step):
    """So that what is cut out by it is never empty, nor from another place."""
    session = pipeline.video()
    height, width = small.shape[:2]
    held = []
    for number in range(16):
        move = np.array([[1, 0, number * step[0]], [0, 1, number * step[1]]], np.float32)
        frame = cv2.warpAffine(small, move, (width, height), borderValue=(60, 60, 60))
        for face in session(frame, number / RATE).faces:
            left, top, across, down = face.box
            assert 0 <= left < left + across <= width
            assert 0 <= top < top + down <= height
            held.append(face)
    assert not held[-1].seen
    assert min(held[-1].box[2:]) == 1


def test_bad_frames(pipeline):
    with pytest.raises(PictureError):
        pipeline.video()(np.zeros((4, 4)), 0.0)


def test_a_closed_pipeline(bundle, small, blank):
    with Pipeline(bundle) as pipeline:
        session = pipeline.video()
    for frame in (blank, small):
        with pytest.raises(EngineError, match=r"after close\(\)"):
            session(frame, 0.0)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"detect_every": 0}, "detect_every"),
        ({"detect_every": 1.5}, "detect_every"),
        ({"detect_every": "2"}, "detect_every"),
        ({"detect_every": None}, "detect_every"),
        ({"hold": -1.0}, "hold"),
        ({"hold": float("nan")}, "hold"),
        ({"hold": "1"}, "hold"),
    ],
)
def test_bad_settings(settings, name):
    with pytest.raises(ConfigurationError, match=name):
        Following(**settings)


@pytest.mark.parametrize("turned", [np.rot90, lambda frame: frame[::2, ::2]])
def test_a_camera_that_is_turned_shows_no_face_under_an_old_cover(pipeline, small, turned):
    frame = np.ascontiguousarray(small[:, : small.shape[1] * 3 // 4])
    session = pipeline.video(Following(detect_every=5))
    assert len(session(frame, 0.0).faces) == 1
    other = np.ascontiguousarray(turned(np.full_like(frame, 90)))
    look = session.look(other, FrameStamp(1, 0.04, 0.0))
    assert look.found == ()
    result = session.cover(look)
    # No cover of the frame before counts for this one, which is therefore not shown at all.
    assert result.faces == ()
    assert result.image.min() >= 128
