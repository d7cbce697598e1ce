from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic import HEIGHT, WIDTH, Cutout, FaceRegion, Motion, Scene, read_cutouts, sample_cutout

from dtir_sdk.errors import DataError
from dtir_sdk.faces import FaceFinder

STILL = Motion(0.0, 0.0, 0.0, shutter=0.0)
UPRIGHT = np.array([[40, 40], [60, 40], [50, 50], [44, 60], [56, 60]], np.float32)


@pytest.fixture(scope="module")
def person() -> Cutout:
    return sample_cutout()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One test face and one train face: a dark disc on white."""
    (tmp_path / "images").mkdir()
    head = ["file", "split", *(f"{p}_{a}" for p in _POINTS for a in "xy")]
    lines = [",".join(head)]
    for name, split in (("a.png", "test"), ("b.png", "train")):
        picture = np.full((100, 100, 3), 255, np.uint8)
        cv2.circle(picture, (50, 52), 40, (90, 110, 140), cv2.FILLED)
        cv2.circle(picture, (50, 52), 5, (255, 255, 255), cv2.FILLED)
        cv2.imwrite(str(tmp_path / "images" / name), picture)
        lines.append(",".join([name, split, *(f"{value:g}" for value in UPRIGHT.ravel())]))
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path


_POINTS = ("leye", "reye", "nose", "lmouth", "rmouth")


def test_the_region_reaches_from_brows_to_chin_and_cheek_to_cheek():
    mask = FaceRegion.of(UPRIGHT).mask(100, 100) > 127
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # 20 from eyes to mouth: 7 above the eyes, 15 below the mouth, 22 to either side.
    assert (rows.min(), rows.max()) == pytest.approx((33, 75), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((28, 72), abs=1)


def test_a_turned_face_has_a_turned_region():
    turned = (UPRIGHT - 50) @ np.array([[0, 1], [-1, 0]], np.float32) + 50
    region = FaceRegion.of(turned)
    assert abs(region.angle) == pytest.approx(90)
    upright = FaceRegion.of(UPRIGHT)
    assert (region.across, region.down) == pytest.approx((upright.across, upright.down))


def zipped(folder: Path, path: Path) -> Path:
    files = [file for file in folder.rglob("*") if file.is_file()]
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_people_are_cut_off_their_white(folder, tmp_path, packed):
    source = zipped(folder, tmp_path / "faces.zip") if packed else folder
    (cutout,) = read_cutouts(source, 1)
    assert cutout.opacity[2, 2] == 0
    # White within a face, as eyes and teeth are, belongs to it.
    assert cutout.opacity[52, 50] == cutout.opacity[52, 30] == 255


def test_too_few_people(folder):
    with pytest.raises(DataError, match="holds 1 test faces"):
        read_cutouts(folder, 2)


@pytest.mark.parametrize("packed", [False, True])
def test_a_picture_that_is_not_there(folder, tmp_path, packed):
    (folder / "images/a.png").unlink()
    source = zipped(folder, tmp_path / "faces.zip") if packed else folder
    with pytest.raises(DataError, match=r"labels\.csv: a\.png cannot be used: "):
        read_cutouts(source, 1)


@pytest.mark.parametrize("table", ["leye_x\n1", "file,leye_x\na.png,1", "file,leye_x\na.png,one"])
def test_a_table_without_landmarks(folder, table):
    head, row = table.split("\n")
    (folder / "labels.csv").write_text(f"split,{head}\ntest,{row}")
    with pytest.raises(DataError, match=r"labels\.csv: (a\.png|None) cannot be used: "):
        read_cutouts(folder, 1)


def test_no_table(tmp_path):
    with pytest.raises(DataError, match=r"no labels\.csv"):
        read_cutouts(tmp_path, 1)
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    for name in ("missing.zip", "broken.zip"):
        with pytest.raises(DataError, match=rf"{name} holds no labels\.csv"):
            read_cutouts(tmp_path / name, 1)


def test_the_face_is_where_the_scene_says(person):
    """The landmarks that the detector finds lie in the region, turned and moving or not."""
    scene = Scene([person], Motion(1.0, 20.0, 0.3), seed=1)
    for number in range(0, 40, 8):
        shot = scene.shoot(number)
        assert shot.frame.shape == (HEIGHT, WIDTH, 3)
        (face, *_) = FaceFinder().find(shot.frame)
        assert all(shot.face[round(y), round(x)] for x, y in face.landmarks.tolist())


def test_a_face_moves_as_fast_as_it_was_told(person):
    rate, speed = 30.0, 2.0
    scene = Scene([person], Motion(speed, 0.0, 0.0, shutter=0.0), rate=rate, seed=2)
    shots = [scene.shoot(number).face for number in range(90)]
    places = np.array([np.argwhere(face).mean(axis=0) for face in shots])
    width = np.flatnonzero(shots[0].any(axis=0)).size
    speeds = np.hypot(*np.diff(places, axis=0).T) * rate / width
    # It may stand up to 1.25 times nearer or farther than on the mean.
    assert 0.7 * speed < speeds.max() < 1.3 * speed


def test_a_still_face_changes_by_its_noise_only(person):
    scene = Scene([person], STILL, seed=3, noise=2.0)
    first, second = scene.shoot(0), scene.shoot(0)
    assert np.array_equal(first.face, second.face)
    difference = second.frame.astype(float) - first.frame
    assert difference.std() == pytest.approx(2.0 * 2**0.5, rel=0.15)


def test_what_hides_a_face_is_not_the_face(person):
    hidden = Motion(0.0, 0.0, 0.0, hidden=0.4)
    free = int(Scene([person], STILL, seed=4).shoot(0).face.sum())
    scene = Scene([person], hidden, seed=4)
    seen = [int(scene.shoot(number).face.sum()) / free for number in range(0, 90, 3)]
    assert 0.4 < min(seen) < 0.75
    assert max(seen) > 0.97


def test_four_people(person):
    shot = Scene([person] * 4, STILL, seed=5).shoot(0)
    parts, _ = cv2.connectedComponents(shot.face.astype(np.uint8))
    assert parts - 1 == 4
    assert len(FaceFinder().find(shot.frame)) == 4
