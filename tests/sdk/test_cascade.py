from __future__ import annotations

import json

import numpy as np
import pytest

from dtir_sdk import Recognizer, Transfer
from dtir_sdk.cascade import Cascade
from dtir_sdk.errors import (
    BundleError,
    ConfigurationError,
    EngineError,
    PictureError,
    RecognizerError,
)


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_same_as_the_parties(bundle, engine, count):
    options = {"engine": engine, "device": "cpu", "precision": "f32"}
    cascade = Cascade(bundle, **options)
    result = cascade(crops(count))
    with Transfer(bundle, **options) as transfer, Recognizer(bundle, **options) as recognizer:
        cartoons = transfer(crops(count))
        assert np.array_equal(result.cartoons, cartoons)
        expected = recognizer.batch(cartoons)
    assert [one.label for one in result.recognitions] == [one.label for one in expected]
    assert [one.confidence for one in result.recognitions] == pytest.approx(
        [one.confidence for one in expected], rel=1e-4
    )
    assert (result.transfer_engine > 0) is (count > 0)
    cascade.close()
    cascade.close()
    with pytest.raises(EngineError, match=r"after close\(\)"):
        cascade(crops(count))


def test_cartoons_are_read_elsewhere(bundle, new_bundle):
    edge = new_bundle("edge")
    options = {"engine": "openvino", "device": "cpu", "precision": "f32"}
    asked = []

    def ask(cartoons):
        asked.append(cartoons.copy())
        answers = [recognition.probabilities for recognition in recognizer.batch(cartoons)]
        cartoons[:] = 0  # whoever reads them has a copy
        return answers

    with Recognizer(bundle, **options) as recognizer, Transfer(edge, **options) as transfer:
        cascade = Cascade(edge, recognizer=ask, **options)
        assert asked == []
        result = cascade(crops(3))
        cartoons = transfer(crops(3))
        expected = recognizer.batch(cartoons)
    assert np.array_equal(asked[0], cartoons)
    assert np.array_equal(result.cartoons, cartoons)
    assert result.recognitions == expected
    assert min(result.transfer_engine, result.recognizer_engine) > 0
    assert cascade(crops(0)).recognitions == ()
    assert len(asked) == 1
    cascade.close()
    with pytest.raises(EngineError, match=r"after close\(\)"):
        cascade(crops(1))


def test_a_recognizer_that_is_given_has_labels_of_its_own(bundle):
    answer = {"old": 0.25, "young": 0.749}  # rounded on its way
    cascade = Cascade(bundle, recognizer=lambda cartoons: [answer] * len(cartoons))
    read = cascade(crops(40)).recognitions
    assert [(one.label, one.confidence) for one in read] == [("young", 0.749)] * 40
    assert read[0].probabilities == answer
    cascade.close()


def test_no_probability_that_was_rounded_exceeds_1(bundle):
    cascade = Cascade(bundle, recognizer=lambda _: [{"male": 1.009, "female": 0.0}])
    (read,) = cascade(crops(1)).recognitions
    assert read.confidence == 1.0
    assert read.probabilities == {"male": 1.0, "female": 0.0}
    cascade.close()


def test_answers_may_be_overwritten_later(bundle):
    answers = [{"female": 0.0, "male": 0.0} for _ in range(40)]
    sizes = []

    def ask(cartoons):
        sizes.append(len(cartoons))
        for answer in answers:
            answer.update(female=float(len(sizes) == 1), male=float(len(sizes) > 1))
        return answers[: len(cartoons)]

    cascade = Cascade(bundle, recognizer=ask)
    labels = [one.label for one in cascade(crops(40)).recognitions]
    assert len(sizes) > 1
    assert labels == ["female"] * sizes[0] + ["male"] * (40 - sizes[0])
    cascade.close()


def test_closing_does_not_wait_for_an_answer(bundle):
    cascade = Cascade(bundle, recognizer=lambda _: cascade.close() or [{"a": 1.0}])
    assert cascade(crops(1)).recognitions[0].label == "a"
    with pytest.raises(EngineError, match=r"after close\(\)"):
        cascade(crops(1))


def no_answer(_):
    raise ConnectionRefusedError(111, "Connection refused")


@pytest.mark.parametrize(
    ("recognizer", "said"),
    [
        (no_answer, r"failed on a batch of 2: connection refused"),
        (lambda _: None, "failed on a batch of 2: .*not iterable"),
        (lambda _: np.zeros((2, 2)), "failed on a batch of 2: .*no attribute 'items'"),
        (lambda _: [{"a": "much"}] * 2, "failed on a batch of 2: could not convert"),
        (lambda _: [{"a": 1.0}], "gave 1 answers for a batch of 2"),
        (lambda _: [{}] * 2, "no probabilities of labels"),
        (lambda _: [{"a": np.nan, "b": 1.0}] * 2, "no probabilities of labels"),
        (lambda _: [{"a": 0.5, "b": 0.4}] * 2, "no probabilities of labels"),
        (lambda _: [{"a": 1.5, "b": -0.5}] * 2, "no probabilities of labels"),
        (lambda _: json.loads('[{"\\ud800": 1.0}, {"a": 1.0}]'), r"no text .*: {'\\ud800': 1\.0"),
        (lambda _: [{"a": 0.5, " ": 0.5}] * 2, "a label that is empty"),
    ],
)
def test_a_recognizer_that_fails_is_told_of(bundle, recognizer, said):
    cascade = Cascade(bundle, recognizer=recognizer)
    with pytest.raises(RecognizerError, match=said):
        cascade(crops(2))
    cascade.close()


def test_refusals(bundle, new_bundle):
    with pytest.raises(BundleError, match="holds no recognizer"):
        Cascade(new_bundle("edge"))
    with pytest.raises(ConfigurationError, match="mode"):
        Cascade(bundle, mode="fast")
    with pytest.raises(PictureError):
        Cascade(bundle)(np.zeros((1, 31, 32, 3), np.uint8))
