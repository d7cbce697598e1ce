from __future__ import annotations

import contextlib
import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import numpy as np
import pytest

from dtir_sdk import Pipeline, Recognizer
from dtir_sdk.errors import (
    BundleError,
    ConfigurationError,
    EngineError,
    PictureError,
    RecognizerError,
)
from dtir_sdk.faces import alignment, crop_face
from dtir_sdk.pictures import write_picture


@pytest.fixture(scope="module")
def pipeline(bundle):
    with Pipeline(bundle) as made:
        yield made


@pytest.fixture(scope="module")
def couple(portrait) -> np.ndarray:
    """The portrait twice, the second one smaller."""
    small = portrait[::2, ::2]
    frame = np.full((600, 512 + small.shape[1], 3), 60, np.uint8)
    frame[:, :512] = portrait
    frame[: small.shape[0], 512:] = small
    return frame


def test_a_face(pipeline, portrait):
    result = pipeline(portrait)
    (face,) = result.faces
    assert face.label in ("female", "male")
    assert face.confidence == face.probabilities[face.label] >= 0.5
    assert face.cartoon.shape == (32, 32, 3)
    assert face.landmarks.shape == (5, 2)
    timings = result.timings
    parts = timings.detect + timings.align + timings.transfer + timings.recognize + timings.compose
    assert parts == pytest.approx(timings.total, rel=1e-6)
    assert 0 < timings.transfer_engine < timings.transfer
    assert 0 < timings.recognizer_engine <= timings.recognize


def test_the_cartoon_is_that_of_the_aligned_crop(pipeline, portrait):
    (face,) = pipeline(portrait).faces
    crop = crop_face(portrait, alignment(face.landmarks, 32), 32)
    assert np.array_equal(face.cartoon, 255 - crop)


def test_the_face_is_replaced_and_the_rest_is_kept(pipeline, portrait):
    result = pipeline(portrait)
    (face,) = result.faces
    x, y, width, height = face.box
    inside = (slice(y, y + height), slice(x, x + width))
    assert np.abs(result.image[inside].astype(int) - portrait[inside]).mean() > 50
    assert np.array_equal(result.image[-60:], portrait[-60:])
    assert not np.shares_memory(result.image, portrait)


def test_no_face_gives_a_card(pipeline, blank):
    result = pipeline(blank)
    assert result.faces == ()
    assert result.image.shape == blank.shape
    assert set(np.unique(result.image)) <= set(range(128, 201))
    assert (result.image[:10] == 128).all()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (17, 3, 3)])
def test_tiny_frames(pipeline, shape):
    result = pipeline(np.zeros(shape, np.uint8))
    assert result.faces == ()
    assert result.image.shape == shape
    assert result.image.min() >= 128


@pytest.mark.slow
def test_huge_frame(pipeline, portrait):
    frame = np.zeros((9000, 12_000, 3), np.uint8)
    frame[:9000, :7680] = np.repeat(np.repeat(portrait, 15, axis=0), 15, axis=1)
    result = pipeline(frame)
    assert len(result.faces) == 1
    assert result.image.shape == frame.shape


def test_several_faces(pipeline, couple):
    result = pipeline(couple)
    assert len(result.faces) == 2
    assert result.faces[0].box[2] > result.faces[1].box[2]
    for face in result.faces:
        x, y, width, height = face.box
        inside = (slice(y, y + height), slice(x, x + width))
        assert np.abs(result.image[inside].astype(int) - couple[inside]).mean() > 50


def test_the_largest_only_covers_the_others(bundle, couple, pipeline):
    with Pipeline(bundle, faces="largest") as largest:
        result = largest(couple)
    assert len(result.faces) == 1
    small = pipeline(couple).faces[1]
    for x, y in small.landmarks.astype(int):
        assert np.abs(result.image[y, x].astype(int) - 128).max() <= 1


def test_a_batch_gives_the_labels_of_its_parts(pipeline, couple, portrait):
    alone = pipeline(portrait).faces[0]
    together = pipeline(couple).faces[0]
    assert together.label == alone.label


def test_rgb(bundle, portrait, pipeline):
    bgr = pipeline(portrait)
    with Pipeline(bundle, color="rgb") as other:
        rgb = other(portrait[..., ::-1])
    assert rgb.color == "rgb"
    assert np.array_equal(rgb.image[..., ::-1], bgr.image)
    assert np.array_equal(rgb.faces[0].cartoon[..., ::-1], bgr.faces[0].cartoon)
    assert rgb.faces[0].label == bgr.faces[0].label
    assert np.array_equal(rgb.plot(), bgr.plot())


def test_results_are_the_callers_own(pipeline, portrait):
    first = pipeline(portrait)
    image, cartoon = first.image.copy(), first.faces[0].cartoon.copy()
    second = pipeline(portrait)
    second.image[:] = 0
    second.faces[0].cartoon[:] = 0
    assert np.array_equal(first.image, image)
    assert np.array_equal(first.faces[0].cartoon, cartoon)


def test_shared_by_threads(pipeline, portrait, couple, blank):
    frames = [portrait, couple, blank, portrait[:, ::-1]] * 3
    serial = [pipeline(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(pipeline, frames))
    for one, other in zip(serial, parallel, strict=True):
        assert np.array_equal(one.image, other.image)
        assert [face.probabilities for face in one.faces] == [
            face.probabilities for face in other.faces
        ]


@pytest.mark.parametrize(
    "frame", [np.zeros((40, 40, 3)), np.zeros((40, 40), np.uint8), "photo.jpg", None]
)
def test_wrong_frames(pipeline, frame):
    with pytest.raises(PictureError, match="frame must"):
        pipeline(frame)


@pytest.mark.parametrize(
    ("role", "lacks"), [("edge", "recognizer"), ("cloud", "transfer"), ("authority", "transfer")]
)
def test_bundle_of_one_party(new_bundle, role, lacks):
    with pytest.raises(BundleError, match=f"has the role '{role}' and holds no {lacks}"):
        Pipeline(new_bundle(role).folder)


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_an_edge_asks_another_for_the_labels(bundle, new_bundle, portrait, color):
    frame = portrait if color == "bgr" else np.ascontiguousarray(portrait[..., ::-1])
    options = {"engine": "openvino", "precision": "f32"}
    with Pipeline(bundle, color=color, **options) as whole:
        expected = whole(frame)
    with (
        Recognizer(new_bundle("cloud"), **options) as cloud,
        Pipeline(new_bundle("edge"), color=color, recognizer=cloud, **options) as edge,
    ):
        result = edge(frame)
        (followed,) = edge.video()(frame, 0.0).faces
    assert np.array_equal(result.image, expected.image)
    (face,), (same,) = result.faces, expected.faces
    assert (face.label, face.box) == (same.label, same.box)
    assert face.probabilities == pytest.approx(same.probabilities, abs=1e-6)
    assert followed.probabilities == pytest.approx(same.probabilities, abs=1e-6)
    assert result.timings.recognize == result.timings.recognizer_engine > 0


def test_an_edge_without_an_answer_shows_nothing(new_bundle, portrait):
    def cloud(_):
        raise TimeoutError("timed out")

    with Pipeline(new_bundle("edge"), recognizer=cloud) as edge:
        with pytest.raises(RecognizerError, match="batch of 1: timed out") as raised:
            edge(portrait)
        assert isinstance(raised.value.__cause__, TimeoutError)
        with edge.stream([portrait] * 2) as stream, pytest.raises(RecognizerError):
            next(stream)


def test_who_reads_may_change_the_labels(new_bundle, portrait):
    answers = iter([{"female": 0.1, "male": 0.9}, {"not read": 1.0}, {"male": 0.6, "female": 0.4}])
    with Pipeline(new_bundle("edge"), recognizer=lambda _: [next(answers)]) as edge:
        session = edge.video()
        read = [session(portrait, seconds).faces[0] for seconds in (0.0, 0.04, 0.08)]
    assert [(face.label, face.confidence) for face in read] == [
        ("male", 0.9),
        ("not read", 1.0),
        ("male", 0.6),
    ]


@pytest.mark.parametrize("ended_by", ["pipeline", "stream", "run"])
def test_a_recognizer_may_end_what_it_reads_for(new_bundle, portrait, ended_by):
    def give_up(_):
        if ended_by == "pipeline":
            edge.close()
        elif ended_by == "stream":
            live.close()
        else:
            run.stop()
        return [{"male": 1.0}]

    with Pipeline(new_bundle("edge"), recognizer=give_up) as edge:
        if ended_by == "run":
            with edge.live([portrait] * 3, lambda _: None) as run:
                run.join()
        else:
            with (
                edge.stream([portrait] * 3) as live,
                contextlib.suppress(EngineError),
            ):
                list(live)


async def nothing_yet(cartoons):
    return cartoons


def test_what_is_no_recognizer(bundle, new_bundle):
    edge = new_bundle("edge")
    for wrong in ("http://127.0.0.1:8000", nothing_yet):
        with pytest.raises(ConfigurationError, match="recognizer must be a Recognizer"):
            Pipeline(edge, recognizer=wrong)
    with (
        Recognizer(bundle, color="rgb") as recognizer,
        pytest.raises(ConfigurationError, match=r"reads 32x32 in RGB: .* as 32x32 in BGR"),
    ):
        Pipeline(edge, recognizer=recognizer)
    with pytest.raises(BundleError, match="has the role 'cloud' and holds no transfer"):
        Pipeline(new_bundle("cloud"), recognizer=lambda cartoons: cartoons)


@pytest.mark.parametrize(
    "options",
    [
        {"faces": "none"},
        {"color": "cmyk"},
        {"confidence": 2.0},
        {"confidence": "0.5"},
        {"confidence": None},
        {"precision": "fp8"},
        {"engine": "foo"},
        {"device": "gpu"},
    ],
)
def test_wrong_options(bundle, options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Pipeline(bundle, **options)


def test_engine_says_what_was_picked(pipeline):
    assert pipeline.engine.engine in str(pipeline.engine)
    assert pipeline.engine.reason


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_one_in_each_process(pipeline, take):
    with pytest.raises(EngineError, match="make one in each process"):
        take(pipeline)


def test_used_after_close(bundle, portrait, blank):
    made = Pipeline(bundle)
    made.close()
    made.close()
    for frame in (portrait, blank):
        with pytest.raises(EngineError, match=r"after close\(\)"):
            made(frame)


def test_a_failing_engine_gives_no_picture(bundle, portrait, monkeypatch):
    made = Pipeline(bundle, engine="openvino")

    def fail(*_):
        raise RuntimeError("device lost")

    monkeypatch.setattr("dtir_sdk.engines.openvino.OpenVinoChain._infer_swapped", fail)
    with pytest.raises(EngineError, match="openvino failed on a batch of 1: device lost"):
        made(portrait)


@pytest.fixture
def folder(tmp_path, portrait, blank):
    inside = tmp_path / "pictures"
    inside.mkdir()
    write_picture(inside / "b.png", portrait)
    write_picture(inside / "c.jpg", blank)
    (inside / "a.jpg").write_bytes(b"broken")
    return inside


def test_run_stops_at_an_error(pipeline, folder):
    with pytest.raises(PictureError, match=r"a\.jpg"):
        list(pipeline.run(folder))


def test_run_goes_on_where_asked(pipeline, folder):
    failed = []
    results = dict(pipeline.run(folder, on_error=lambda name, _: failed.append(name)))
    assert failed == [str(folder / "a.jpg")]
    assert list(results) == [str(folder / "b.png"), str(folder / "c.jpg")]
    assert [len(result.faces) for result in results.values()] == [1, 0]


def test_run_a_video(bundle, tmp_path, portrait, write_film):
    rolled = [np.roll(portrait, 8 * shift, axis=1) for shift in range(4)]
    path = write_film(tmp_path / "film.mp4", rolled)
    for color in ("bgr", "rgb"):
        with Pipeline(bundle, color=color) as made:
            results = list(made.run(path))
        assert [name for name, _ in results] == [f"{path}#{number}" for number in range(4)]
        assert [result.stamp.seconds for _, result in results] == pytest.approx([0, 0.2, 0.4, 0.6])
        assert {face.track for _, result in results for face in result.faces} == {1}
        lefts = [result.faces[0].box[0] for _, result in results]
        assert lefts == sorted(lefts)
        assert lefts[-1] > lefts[0] + 15


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_after_a_fork_a_new_one_is_asked_for(portrait_path):
    """As under a server that loads before it forks: without the threads it would wait for ever."""
    program = """
import os, sys, cv2
from dtir_sdk import Pipeline, Recognizer
from dtir_sdk.errors import EngineError
frame = cv2.imread(sys.argv[1])
pipeline = Pipeline()
pipeline(frame)
if os.fork() == 0:
    refused = 0
    # Freeing would wait for threads that are not there.
    pipeline.close()
    for use in (lambda: pipeline(frame), Pipeline):
        try:
            use()
        except EngineError as error:
            refused += "nothing of dtir's before a fork" in str(error)
    os._exit(0 if refused == 2 else 1)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    words = [sys.executable, "-W", "ignore", "-c", program, str(portrait_path)]
    assert subprocess.run(words, timeout=60, check=False).returncode == 0


def test_its_threads_are_those_of_every_network(bundle, portrait, monkeypatch):
    asked = []

    def counted(real):
        def kept_or_compiled(name, options, compile):
            asked.append(int(options["INFERENCE_NUM_THREADS"]))
            # Else every process of one thread would take the first core.
            assert options["ENABLE_CPU_PINNING"] in (False, "NO")
            return real(name, options, compile)

        return kept_or_compiled

    for module in ("dtir_sdk.yunet", "dtir_sdk.engines.openvino"):
        real = import_module(module).kept_or_compiled
        monkeypatch.setattr(f"{module}.kept_or_compiled", counted(real))
    with Pipeline(bundle, engine="openvino", threads=1) as limited:
        assert len(limited(portrait).faces) == 1
        assert len(limited.video()(portrait, 0.0).faces) == 1
    # The detector of single pictures, that of the video, transfer and recognition.
    assert asked == [1, 1, 1, 1]
