from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from dtir_export.pictures import GatePictures, run_sources
from dtir_sdk.errors import DataError, PictureError
from dtir_sdk.sources import SAMPLE_PORTRAIT
from dtir_train.configuration import Configuration, Data, Networks
from dtir_train.datasets import load_secret
from dtir_train.datasets.generated import generated_secret


def configuration(*secret: str, align: bool = False) -> Configuration:
    return Configuration(
        Networks(image_size=32), Data(secret=secret or ("generated",), align=align)
    )


def gate_pictures(
    configured: Configuration, paths: tuple[Path, ...], count: int, split: str | None = None
) -> GatePictures:
    return run_sources(configured, paths).take(count, split)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    drawn, _ = generated_secret(10, 40, 0)
    for index, picture in enumerate(drawn):
        cv2.imwrite(str(folder / f"{index}.png"), picture[..., ::-1])
    return folder


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A folder a class."""
    for index, picture in enumerate(generated_secret(40, 32, 0)[0]):
        folder = tmp_path / "shapes" / ("disc", "square")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), picture[..., ::-1])
    return tmp_path / "shapes"


def test_generated_by_default() -> None:
    taken = gate_pictures(configuration(), (), 6)
    assert taken.pictures.shape == (6, 32, 32, 3)
    assert taken.pictures.dtype == np.uint8
    assert taken.origins == ("generated",)


def test_configured_folder_by_default(shapes: Path) -> None:
    taken = gate_pictures(configuration(str(shapes)), (), 4)
    assert taken.pictures.shape == (4, 32, 32, 3)
    assert taken.origins == ("shapes",)


def test_evenly_over_several_sources(shapes: Path) -> None:
    taken = gate_pictures(configuration(str(shapes), "generated"), (), 8)
    assert len(taken.pictures) == 8
    assert taken.origins == ("shapes", "generated")


def test_generated_pictures_are_of_the_splits_of_training() -> None:
    data = Data(align=False, attribute="shape")
    for split in ("train", "test"):
        trained_on = load_secret(data, 32, split).pictures[:, ..., :3]
        assert (gate_pictures(configuration(), (), 4, split).pictures == trained_on[:4]).all()
    assert (gate_pictures(configuration(), (), 4).pictures == trained_on[:4]).all()


def test_a_folder_a_class_is_split_as_in_training(shapes: Path) -> None:
    configured = configuration(str(shapes))
    for split in ("train", "test"):
        gate = gate_pictures(configured, (), 40, split).pictures
        data = dataclasses.replace(configured.data, validation=0.0)
        assert (gate == load_secret(data, 32, split).pictures[:, ..., :3]).all()


def test_rgb_order(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), np.full((32, 32, 3), (0, 0, 255), np.uint8))
    taken = gate_pictures(configuration(), (tmp_path / "red.png",), 4)
    assert taken.pictures.shape == (1, 32, 32, 3)
    assert taken.pictures[0, 0, 0].tolist() == [255, 0, 0]


def write_zip(folder: Path, path: Path, tests: tuple[int, ...]) -> Path:
    lines = ["file,split,shape"]
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(10):
            archive.write(folder / f"{index}.png", f"images/{index}.png")
            lines.append(f"{index}.png,{'test' if index in tests else 'train'},disc")
        archive.writestr("labels.csv", "\n".join(lines))
    return path


def test_zip_prefers_its_test_split(folder: Path, tmp_path: Path) -> None:
    path = write_zip(folder, tmp_path / "set.zip", (3, 7))
    taken = gate_pictures(configuration(), (path,), 64)
    wanted = [
        cv2.resize(cv2.imread(str(folder / f"{i}.png")), (32, 32), interpolation=cv2.INTER_AREA)
        for i in (3, 7)
    ]
    np.testing.assert_array_equal(taken.pictures, np.stack(wanted)[..., ::-1])


def test_source_that_is_gone() -> None:
    with pytest.raises(DataError, match=r"not there any more.*--pictures"):
        gate_pictures(configuration("/no/such/folder"), (), 4)


def test_named_path_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such"):
        gate_pictures(configuration(), (tmp_path / "nothing",), 4)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        gate_pictures(configuration(), (tmp_path,), 4)


@pytest.mark.parametrize(
    ("content", "problem"), [(b"", "is empty"), (b"no picture", "is no picture")]
)
def test_file_that_is_no_picture(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(PictureError, match=rf"broken\.png {problem}"):
        gate_pictures(configuration(), (tmp_path / "broken.png",), 4)


def test_no_face(folder: Path) -> None:
    with pytest.raises(PictureError, match=r"no face found.*--pictures"):
        gate_pictures(configuration(align=True), (folder,), 4)


def test_face_is_aligned() -> None:
    taken = gate_pictures(configuration(align=True), (SAMPLE_PORTRAIT,), 4)
    assert taken.pictures.shape == (1, 32, 32, 3)
    assert taken.pictures.std() > 20


def test_splits_share_no_picture(folder: Path, tmp_path: Path) -> None:
    path = write_zip(folder, tmp_path / "set.zip", (3, 7))
    judged = gate_pictures(configuration(), (path,), 64, "test").pictures
    calibrated = gate_pictures(configuration(), (path,), 64, "train").pictures
    assert (len(judged), len(calibrated)) == (2, 8)
    assert not any((one == other).all() for one in judged for other in calibrated)


def test_generated_splits_differ() -> None:
    judged, calibrated = (
        gate_pictures(configuration(), (), 4, split).pictures for split in ("test", "train")
    )
    assert not any((one == other).all() for one in judged for other in calibrated)


def test_single_picture_cannot_be_split(folder: Path) -> None:
    with pytest.raises(DataError, match=r"0\.png is a single picture.*folder or zip"):
        gate_pictures(configuration(), (folder / "0.png",), 4, "train")


def test_source_without_test_pictures(folder: Path, tmp_path: Path) -> None:
    path = write_zip(folder, tmp_path / "set.zip", ())
    assert len(gate_pictures(configuration(), (path,), 4).pictures) == 4
    with pytest.raises(DataError, match=r"set\.zip has no test pictures"):
        gate_pictures(configuration(), (path,), 4, "test")


@pytest.mark.parametrize(("count", "shares"), [(1, [1, 0, 0]), (4, [2, 1, 1]), (6, [2, 2, 2])])
def test_every_source_gives_its_share(tmp_path: Path, count: int, shares: list[int]) -> None:
    sources = []
    for grey in (10, 20, 30):
        sources.append(tmp_path / f"of-{grey}")
        sources[-1].mkdir()
        for number in range(4):
            cv2.imwrite(str(sources[-1] / f"{number}.png"), np.full((40, 40, 3), grey, np.uint8))
    taken = gate_pictures(configuration(), tuple(sources), count)
    greys = taken.pictures[:, 0, 0, 0].tolist()
    assert [greys.count(grey) for grey in (10, 20, 30)] == shares
    gave = [source.name for source, share in zip(sources, shares, strict=True) if share]
    assert list(taken.origins) == gave
