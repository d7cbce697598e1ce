from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from dtir_sdk.engines import base
from dtir_sdk.errors import BundleError, ConfigurationError, EngineError, PictureError
from dtir_sdk.parties import Recognition, Recognizer, Restorer, Transfer

BLUE, RED = 0, 2


@pytest.fixture(params=["openvino", "onnxruntime"])
def engine(request) -> dict[str, str]:
    return {"engine": request.param, "device": "cpu"}


@pytest.fixture
def batch() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def colored(channel: int) -> np.ndarray:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., channel] = 200
    return picture


def test_one_and_many(bundle, batch, engine):
    with Transfer(bundle, **engine) as transfer:
        assert np.array_equal(transfer(batch[0]), 255 - batch[0])
        assert np.array_equal(transfer(batch), 255 - batch)
        assert transfer(batch[:0]).shape == (0, 32, 32, 3)
        assert transfer(batch[::-1, :, ::-1]).flags.c_contiguous


def test_more_than_the_engine_takes_at_once(bundle, engine):
    many = np.random.default_rng(2).integers(0, 256, (37, 32, 32, 3), dtype=np.uint8)
    with Transfer(bundle, **engine) as transfer, Recognizer(bundle, **engine) as recognizer:
        assert np.array_equal(transfer(many), 255 - many)
        alone = np.concatenate([recognizer.probabilities(picture) for picture in many])
        together = recognizer.probabilities(many)
    assert np.array_equal(alone.argmax(axis=1), together.argmax(axis=1))
    assert np.abs(alone - together).max() < 2e-2


def test_there_and_back(bundle, batch, engine):
    with Transfer(bundle, **engine) as transfer, Restorer(bundle, **engine) as restorer:
        assert np.array_equal(restorer(transfer(batch)), batch)


def test_input_is_not_written_to(bundle, batch, engine):
    batch.setflags(write=False)
    for color in ("bgr", "rgb"):
        with Transfer(bundle, color=color, **engine) as transfer:
            assert np.array_equal(transfer(batch), 255 - batch)


def test_recognizer_reads_rgb_graphs_from_bgr(bundle, engine):
    """The first label is the graph's channel 0, which is red."""
    with Recognizer(bundle, **engine) as recognizer:
        assert recognizer(colored(RED)).label == "female"
        assert recognizer(colored(BLUE)).label == "male"
        several = recognizer.batch(np.stack([colored(RED), colored(BLUE)]))
        assert [found.label for found in several] == ["female", "male"]
        assert recognizer.batch(colored(RED)) == (recognizer(colored(RED)),)
        assert recognizer.batch(np.zeros((0, 32, 32, 3), np.uint8)) == ()
        assert recognizer.probabilities(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 2)
    with Recognizer(bundle, color="rgb", **engine) as recognizer:
        assert recognizer(colored(RED)).label == "male"


def test_recognition(bundle):
    with Recognizer(bundle) as recognizer:
        found = recognizer(colored(RED))
    assert isinstance(found, Recognition)
    assert set(found.probabilities) == {"female", "male"}
    assert found.confidence == max(found.probabilities.values())
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-2)
    assert len({found, replace(found), replace(found, label="male")}) == 2


def test_one_recognition_is_of_one_cartoon(bundle, batch):
    with Recognizer(bundle) as recognizer, pytest.raises(PictureError, match=r"several to batch\("):
        recognizer(batch)


def test_one_in_each_process(bundle):
    with Transfer(bundle) as transfer, pytest.raises(EngineError, match="in each process"):
        pickle.dumps(transfer)


@pytest.mark.parametrize(
    ("role", "party", "others"),
    [
        ("edge", Transfer, (Recognizer, Restorer)),
        ("cloud", Recognizer, (Transfer, Restorer)),
        ("authority", Restorer, (Transfer, Recognizer)),
    ],
)
def test_each_party_with_its_own_file_only(new_bundle, role, party, others):
    folder = new_bundle(role).folder
    with party(folder) as mine:
        mine(np.zeros((32, 32, 3), np.uint8))
    for other in others:
        with pytest.raises(BundleError, match=f"its role is '{role}'"):
            other(folder)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((32, 32, 3)),
        np.zeros((31, 32, 3), np.uint8),
        np.zeros((1, 1, 32, 32, 3), np.uint8),
        np.zeros((32, 32), np.uint8),
        [[0]],
    ],
)
def test_wrong_arrays(bundle, array):
    with Transfer(bundle) as transfer, pytest.raises(PictureError, match="picture must"):
        transfer(array)


@pytest.mark.parametrize("count", [0, 1])
def test_used_after_close(bundle, count):
    pictures = np.zeros((count, 32, 32, 3), np.uint8)
    transfer, recognizer = Transfer(bundle), Recognizer(bundle)
    for party in (transfer, transfer, recognizer):
        party.close()
    with pytest.raises(EngineError, match=r"Transfer: used after close\(\)"):
        transfer(pictures)
    with pytest.raises(EngineError, match=r"Recognizer: used after close\(\)"):
        recognizer.probabilities(pictures)


def test_wrong_signature_names_the_file(new_bundle, tiny):
    models = {"transfer": (tiny.inverter(size=16), "fp32")}
    with pytest.raises(BundleError, match=r"transfer\.onnx has the signature"):
        Transfer(new_bundle("edge", models=models))


def test_more_labels_than_the_graph_gives(new_bundle):
    with pytest.raises(BundleError, match=r"must have .*probabilities float32 \[N,3\]"):
        Recognizer(new_bundle("cloud", labels=["a", "b", "c"]))


def test_probabilities_that_are_no_numbers(new_bundle, tiny):
    models = {"recognizer": (tiny.reader("Log"), "fp32")}
    with pytest.raises(EngineError, match=r"Recognizer: .*not finite"):
        Recognizer(new_bundle("cloud", models=models))


def test_engine_is_freed_when_the_first_run_fails(bundle, monkeypatch):
    released = []

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("dtir_sdk.engines.openvino.OpenVinoEngine._infer_swapped", fail)
    monkeypatch.setattr(base.Engine, "close", lambda self: released.append(self.info))
    with pytest.raises(EngineError, match="out of memory"):
        Transfer(bundle, engine="openvino")
    assert len(released) == 1


def test_wrong_color(bundle):
    with pytest.raises(ConfigurationError, match="color"):
        Transfer(bundle, color="cmyk")


def test_engine_says_what_was_picked(bundle):
    with Transfer(bundle, engine="openvino") as transfer:
        assert transfer.engine.engine == "openvino"
        assert "asked for openvino" in str(transfer.engine)
