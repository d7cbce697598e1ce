"""The model that ships: whole, small enough, and as good as its card says."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from dtir_sdk import Bundle, Pipeline, Recognizer, Restorer, Transfer, read_picture
from dtir_sdk.faces import alignment, crop_face
from dtir_sdk.sources import SAMPLE_PORTRAIT
from dtir_train.configuration import Data
from dtir_train.datasets import load_secret

DATA = Path(os.environ.get("DTIR_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


def test_it_is_whole_and_small(bundle: Bundle) -> None:
    bundle.verify()
    assert sum(file.stat().st_size for file in bundle.folder.iterdir()) <= 25e6
    assert bundle.manifest.labels == ("female", "male")
    assert bundle.manifest.role == "full"


def test_its_card_states_measured_figures(bundle: Bundle) -> None:
    metrics = bundle.manifest.metrics
    assert {item["source"] for item in metrics["recognition"]} == {"faces_hq", "faces_identity"}
    assert "dtir-train evaluate" in metrics["conditions"]["command"]
    assert all("research" in item.licence for item in bundle.manifest.training_data)


def test_the_sample_portrait(bundle: Bundle) -> None:
    frame = read_picture(SAMPLE_PORTRAIT)
    with Pipeline(bundle) as pipeline, Restorer(bundle) as restorer:
        (face,) = pipeline(frame).faces
        restored = restorer(face.cartoon)
    photo = crop_face(frame, alignment(face.landmarks, 128), 128)
    assert face.label in bundle.manifest.labels
    # A cartoon lies on white, and is no photo; the restored picture is one.
    corners = face.cartoon[[0, 0, 20, 20], [0, -1, 0, -1]]
    assert corners.min() > 200
    assert cv2.PSNR(photo, face.cartoon) < 15
    assert cv2.PSNR(photo, restored) > 18


def test_two_engines_agree(bundle: Bundle) -> None:
    frame = read_picture(SAMPLE_PORTRAIT)
    cartoons = []
    for engine in ("openvino", "onnxruntime"):
        with Pipeline(bundle, engine=engine, precision="f32") as pipeline:
            cartoons.append(pipeline(frame).faces[0].cartoon)
    assert cv2.PSNR(*cartoons) > 40


@pytest.mark.data
@pytest.mark.parametrize(("name", "least"), [("faces_hq", 0.95), ("faces_identity", 0.90)])
def test_gender_on_a_part_of_the_test_split(bundle: Bundle, name: str, least: float) -> None:
    source = DATA / f"{name}.zip"
    if not source.is_file():
        pytest.skip(f"{source} is not here: the real pictures are not part of the project")
    data = Data((str(source),), attribute="male", limit=200)
    crops = load_secret(data, bundle.manifest.image_size, "test")
    pictures = np.ascontiguousarray(crops.pictures[..., 2::-1])
    with Transfer(bundle) as transfer, Recognizer(bundle) as recognizer:
        read = recognizer.probabilities(transfer(pictures)).argmax(axis=1)
    assert (read == crops.labels).mean() >= least
