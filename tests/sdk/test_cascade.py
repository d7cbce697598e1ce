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


def test_refusals(bundle, new_bundle):
    with pytest.raises(BundleError, match="holds no recognizer"):
        Cascade(new_bundle("edge"))
    with pytest.raises(ConfigurationError, match="mode"):
        Cascade(bundle, mode="fast")
    with pytest.raises(PictureError):
        Cascade(bundle)(np.zeros((1, 31, 32, 3), np.uint8))
