"""Bundles that take whole pictures: no face is looked for, and nothing of the picture is left."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_sdk import Pipeline, cli
from dtir_sdk.bundle import Bundle
from dtir_sdk.errors import BundleError, ConfigurationError
from dtir_sdk.manifest import MANIFEST
from dtir_sdk.pictures import write_picture
from dtir_sdk.session import Following
from dtir_sdk.whole import whole_crop

BLUE, RED = (200, 40, 40), (40, 40, 200)


def shade(color, height=48, width=64) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


@pytest.fixture
def whole(new_bundle) -> Bundle:
    """The recognizer sees inverted colours: what is blue has more red there."""
    return new_bundle(crop="whole", labels=("more red", "more blue"))


@pytest.fixture
def pipeline(whole):
    with Pipeline(whole) as made:
        yield made


def test_the_bundle_says_what_it_takes(whole, new_bundle):
    assert Bundle.open(whole.folder).manifest.crop == "whole"
    assert json.loads((whole.folder / MANIFEST).read_text())["crop"] == "whole"
    assert new_bundle("edge").manifest.crop == "face"


def test_older_bundles_take_faces_and_unknown_crops_are_refused(bundle, tmp_path):
    document = json.loads((bundle.folder / MANIFEST).read_text())
    for file in bundle.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    del document["crop"]
    (tmp_path / MANIFEST).write_text(json.dumps(document))
    assert Bundle.open(tmp_path).manifest.crop == "face"
    (tmp_path / MANIFEST).write_text(json.dumps(document | {"crop": "half"}))
    with pytest.raises(BundleError, match="'crop' must be one of face, whole, and is 'half'"):
        Bundle.open(tmp_path)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 48))
def test_a_whole_picture_is_stretched_to_a_square_of_its_own(height, width, size):
    picture = shade((7, 8, 9), height, width)
    crop = whole_crop(picture, size)
    assert crop.shape == (size, size, 3)
    assert (crop == (7, 8, 9)).all()
    crop[:] = 0
    assert picture.all()


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_the_cartoon_takes_the_place_of_all_of_the_picture(whole, color):
    with Pipeline(whole, color=color) as pipeline:
        result = pipeline(shade(BLUE if color == "bgr" else BLUE[::-1]))
    (found,) = result.faces
    assert (found.label, found.box) == ("more red", (0, 0, 64, 48))
    assert found.landmarks.shape == (0, 2)
    assert found.track is None
    inverted = tuple(255 - value for value in (BLUE if color == "bgr" else BLUE[::-1]))
    assert (result.image == inverted).all()
    assert result.image.shape == (48, 64, 3)
    assert (found.cartoon == inverted).all()
    timings = result.timings
    parts = timings.align + timings.transfer + timings.recognize + timings.compose
    assert parts == pytest.approx(timings.total, rel=1e-6)
    assert json.loads(result.to_json())["faces"][0]["landmarks"] == []


def test_the_picture_is_the_callers_own_where_it_has_the_cartoons_size(pipeline):
    result = pipeline(shade(RED, 32, 32))
    result.image[:] = 0
    assert result.faces[0].cartoon.all()


def test_a_portrait_is_no_face_here(pipeline, portrait):
    result = pipeline(portrait)
    crop = whole_crop(portrait, 32)
    assert np.array_equal(result.faces[0].cartoon, 255 - crop)
    wanted = cv2.resize(255 - crop, portrait.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(result.image, wanted)


def test_the_label_of_a_video_is_steadied(pipeline):
    session = pipeline.video()
    first = session(shade(BLUE), 0.0)
    soon = session(shade(RED), 0.04)
    late = session(shade(RED), 10.0)
    assert [result.faces[0].label for result in (first, soon, late)] == [
        "more red",
        "more red",
        "more blue",
    ]
    assert (soon.image == 255 - np.array(RED)).all()
    assert soon.faces[0].track == 1
    with pytest.raises(ConfigurationError, match="give frames in the order of their time"):
        session(shade(RED), 9.0)


def test_frames_of_another_size_show_something_else(pipeline):
    session = pipeline.video()
    first, turned = session(shade(BLUE, 48, 64), 0.0), session(shade(RED, 64, 48), 0.04)
    assert [result.faces[0].label for result in (first, turned)] == ["more red", "more blue"]
    assert [result.faces[0].track for result in (first, turned)] == [1, 2]


def test_pictures_of_a_stream_stand_for_themselves(pipeline, tmp_path):
    for name, color in (("a.png", BLUE), ("b.png", RED)):
        write_picture(tmp_path / name, shade(color))
    with pipeline.stream(tmp_path) as stream:
        faces = [result.faces[0] for result in stream]
    assert [(face.label, face.track) for face in faces] == [("more red", 1), ("more blue", 2)]


@pytest.mark.parametrize(
    "options", [{"surround": "blur"}, {"confidence": 0.9}, {"faces": "largest"}]
)
def test_options_of_faces_are_refused(whole, options):
    with pytest.raises(ConfigurationError, match="for whole pictures"):
        Pipeline(whole, **options)


def test_there_are_no_faces_to_follow(pipeline):
    with pytest.raises(ConfigurationError, match="no faces to follow"):
        pipeline.video(Following(hold=2.0))


def test_the_command_runs_pictures_folders_and_videos(
    whole, tmp_path, monkeypatch, capsys, write_film
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name, color in (("a.png", BLUE), ("b.png", RED)):
        write_picture(tmp_path / "in" / name, shade(color))
    words = ["--bundle", str(whole.folder)]
    assert cli.main(["run", "in/a.png", *words]) == 0
    assert "in/a.png: whole picture: more red" in capsys.readouterr().out
    sheet = cv2.imread(str(tmp_path / "dtir-output" / "a_side_by_side.png"))
    # Photo, cartoon and restored photo.
    assert sheet.shape[1] == 3 * 256 + 2 * 8
    assert (sheet[150, 100] == BLUE).all()
    assert cli.main(["run", "in", "--to", "out/", *words]) == 0
    assert "labels: more blue 1, more red 1" in capsys.readouterr().out
    write_film("film.mp4", [shade(BLUE)] * 4)
    assert cli.main(["run", "film.mp4", "--to", "safe.mp4", *words]) == 0
    assert "film.mp4: labels: more red 4" in capsys.readouterr().out
    assert cli.main(["info", *words]) == 0
    assert "whole pictures" in capsys.readouterr().out
    assert cli.main(["run", "film.mp4", "--surround", "blur", "--to", "s2.mp4", *words]) == 2
    assert "leave faces, surround and confidence out" in capsys.readouterr().err
    for source in ("in", "film.mp4"):
        assert cli.main(["run", source, "--hold", "3", "--output", "late", *words]) == 2
        assert "leave --detect-every and --hold out" in capsys.readouterr().err
    assert not (tmp_path / "late").exists()


def test_pictures_that_were_taken_for_faces_are_done_again(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_picture("a.png", shade(BLUE))
    manifest = whole.folder / MANIFEST
    text = manifest.read_text()
    manifest.write_text(text.replace('"crop": "whole"', '"crop": "face"'))
    words = ["run", "a.png", "--to", "out/", "--bundle", str(whole.folder)]
    assert cli.main(words) == 3
    manifest.write_text(text)
    capsys.readouterr()
    assert cli.main(words) == 0
    assert "out: 1 pictures; labels: more red 1" in capsys.readouterr().out
