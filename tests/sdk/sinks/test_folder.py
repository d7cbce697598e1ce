from __future__ import annotations

import pytest

from dtir_sdk.errors import ConfigurationError, OutputError
from dtir_sdk.pictures import read_picture
from dtir_sdk.sinks import open_sink


def test_a_file_a_frame(tmp_path, result):
    with open_sink(f"{tmp_path}/new/frames/") as sink:
        for number in (0, 3, 1_234_567):
            sink.write(result(number))
    folder = tmp_path / "new" / "frames"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["000000.png", "000003.png", "1234567.png"]
    assert (read_picture(folder / "000003.png") == (200, 60, 20)).all()


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_named_jpegs_without_stamps(tmp_path, result, color):
    with open_sink(str(tmp_path / "take.%03d.jpg")) as sink:
        sink.write(result(color=color))
        sink.write(result(color=color))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["take.000.jpg", "take.001.jpg"]
    picture = read_picture(tmp_path / "take.001.jpg").astype(int)
    assert abs(picture - (200, 60, 20)).max() < 6


def test_pictures_of_another_run(tmp_path, result):
    with open_sink(f"{tmp_path}/") as sink:
        sink.write(result(0))
    before = (tmp_path / "000000.png").read_bytes()
    with pytest.raises(OutputError, match=r"pictures of another run \(000000\.png\): name another"):
        open_sink(f"{tmp_path}/")
    assert (tmp_path / "000000.png").read_bytes() == before
    with open_sink(str(tmp_path / "second-%06d.png")) as sink:
        sink.write(result(0))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("%06d.gif", "must end in a picture's suffix"),
        ("%06d.pgm", "must end in a picture's suffix"),
        ("%d-%d.png", "must hold one number"),
        ("%s.png", "must hold one number"),
        ("100%.png", "must hold one number"),
    ],
)
def test_bad_names(tmp_path, name, words):
    with pytest.raises(ConfigurationError, match=words):
        open_sink(str(tmp_path / "new" / name))
    assert list(tmp_path.iterdir()) == []


def test_not_writable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is a file: name a folder"):
        open_sink(f"{tmp_path}/file/")
    with pytest.raises(OutputError, match="could not be written"):
        open_sink(f"{tmp_path}/file/frames/")


def test_full_disk(tmp_path, result, small_disk):
    with open_sink(f"{tmp_path}/") as sink:
        sink.write(result(0))
        told = r"000001\.png could not be written: file too large"
        with small_disk(50), pytest.raises(OutputError, match=told):
            sink.write(result(1))
    assert [path.name for path in tmp_path.iterdir()] == ["000000.png"]


def test_after_close(tmp_path, result):
    sink = open_sink(f"{tmp_path}/")
    sink.close()
    with pytest.raises(OutputError, match="used after close"):
        sink.write(result())
