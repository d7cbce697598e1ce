from __future__ import annotations

import numpy as np
import pytest

from dtir_sdk import Recognizer, Transfer
from dtir_sdk.cascade import Cascade
from dtir_sdk.errors import BundleError, ConfigurationError, EngineError, PictureError


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
        probabilities = recognizer.probabilities(cartoons)
        cartoons[:] = 0  # whoever reads them has a copy
        return probabilities

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


def test_a_recognizer_that_is_given_takes_the_place_of_the_bundles(bundle):
    cascade = Cascade(bundle, recognizer=lambda cartoons: np.tile([0.25, 0.75], (len(cartoons), 1)))
    assert [one.label for one in cascade(crops(40)).recognitions] == ["male"] * 40
    cascade.close()


def no_answer(_):
    raise ConnectionRefusedError(111, "Connection refused")


@pytest.mark.parametrize(
    ("recognizer", "said"),
    [
        (no_answer, r"failed on 2 cartoons: .*refused"),
        (lambda _: np.zeros((2, 3)), r"an array of \[2, 3\] for 2 cartoons: it must give \[2, 2\]"),
        (lambda _: None, r"an array of \[\]"),
        (lambda _: [["a", "b"]], "failed on 2 cartoons"),
        (lambda _: np.full((2, 2), np.nan), "no probabilities"),
        (lambda _: np.full((2, 2), 1.5), "no probabilities"),
    ],
)
def test_a_recognizer_that_fails_is_told_of(bundle, recognizer, said):
    cascade = Cascade(bundle, recognizer=recognizer)
    with pytest.raises(EngineError, match=said):
        cascade(crops(2))
    cascade.close()


def test_refusals(bundle, new_bundle):
    with pytest.raises(BundleError, match="holds no recognizer"):
        Cascade(new_bundle("edge"))
    with pytest.raises(ConfigurationError, match="mode"):
        Cascade(bundle, mode="fast")
    with pytest.raises(PictureError):
        Cascade(bundle)(np.zeros((1, 31, 32, 3), np.uint8))
