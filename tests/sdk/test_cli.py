from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dtir_sdk import cli, job
from dtir_sdk.pictures import read_picture, write_picture
from dtir_sdk.videos import VideoReader, writing


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def dtir(bundle, capsys):
    """Runs the command; returns the exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        command, *rest = map(str, words)
        code = cli.main([command, "--bundle", str(bundle.folder), *rest])
        return code, *capsys.readouterr()

    return run


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dtir_sdk", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def names(folder: str = "dtir-output") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def one_error_line(err: str) -> str:
    assert err.startswith("dtir: error: ")
    assert err.count("\n") == 1
    return err


def test_a_portrait(dtir, portrait_path, portrait):
    code, out, err = dtir("run", portrait_path)
    assert (code, err) == (0, "")
    assert "face 1: " in out
    assert "total" in out
    assert "engine: " in out
    assert names() == ["grace_hopper.json", "grace_hopper.png", "grace_hopper_safe.png"]
    document = json.loads(Path("dtir-output/grace_hopper.json").read_text())
    assert document["faces"][0]["label"] in ("female", "male")
    assert document["attribute"] == "gender"
    assert document["timings_ms"]["total"] > 0
    assert read_picture("dtir-output/grace_hopper.png").shape == (284, 3 * 264 - 8, 3)
    assert read_picture("dtir-output/grace_hopper_safe.png").shape == portrait.shape


def test_no_photo(dtir, portrait_path):
    assert dtir("run", portrait_path, "--no-photo", "--output", "out")[0] == 0
    assert read_picture("out/grace_hopper.png").shape == (284, 256, 3)


def test_bundle_without_restorer(new_bundle, tiny, portrait_path):
    models = {name: tiny.graphs[name] for name in ("transfer", "recognizer")}
    folder = new_bundle(models=models).folder
    assert cli.main(["run", str(portrait_path), "--bundle", str(folder)]) == 0
    assert read_picture("dtir-output/grace_hopper.png").shape == (284, 2 * 264 - 8, 3)


def test_no_face(dtir, blank):
    write_picture("wall.png", blank)
    code, _, err = dtir("run", "wall.png")
    assert code == 3
    assert err == "dtir: wall.png: no face was found\n"
    assert names() == ["wall.json", "wall_safe.png"]
    assert json.loads(Path("dtir-output/wall.json").read_text())["faces"] == []
    assert read_picture("dtir-output/wall_safe.png").min() >= 128


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\xff\xd8\xff\xe0 cut"])
def test_unreadable_picture(dtir, content):
    if content is not None:
        Path("p.jpg").write_bytes(content)
    code, _, err = dtir("run", "p.jpg")
    assert code == 2
    assert "p.jpg" in one_error_line(err)
    assert not Path("dtir-output").exists()


def test_a_folder_with_a_broken_picture(dtir, portrait):
    Path("in").mkdir()
    Path("in/a.jpg").write_bytes(b"broken")
    write_picture("in/b.png", portrait)
    write_picture("in/b.jpg", portrait)
    Path("in/notes.txt").write_text("no picture")
    code, out, err = dtir("run", "in")
    assert code == 1
    assert "in/a.jpg" in err
    assert err.endswith("dtir: 1 of 3 files could not be read\n")
    assert out.count("face 1") == 2
    endings = (".json", ".png", "_safe.png")
    assert names() == sorted(f"{stem}{end}" for stem in ("b", "b.png") for end in endings)


def test_a_video(dtir, portrait):
    with writing(Path("film.mp4"), 5) as writer:
        for _ in range(3):
            writer.write(portrait)
    code, out, _ = dtir("run", "film.mp4")
    assert code == 0
    assert "3 frames" in out
    assert names() == ["film.jsonl", "film.mp4"]
    lines = Path("dtir-output/film.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [0, 1, 2]
    with VideoReader(Path("dtir-output/film.mp4")) as video:
        (frame, *_) = video
        assert video.length == 3
    (face,) = json.loads(lines[0])["faces"]
    x, y, width, height = face["box"]
    inside = (slice(y, y + height), slice(x, x + width))
    assert np.abs(frame[inside].astype(int) - portrait[inside]).mean() > 40


def test_never_overwrites_a_source(dtir, portrait):
    write_picture("p.png", portrait)
    write_picture("q_safe.png", portrait)
    write_picture("q.jpg", portrait)
    before = Path("p.png").read_bytes()
    code, _, err = dtir("run", "p.png", "--output", ".")
    assert code == 2
    assert "would overwrite a source" in one_error_line(err)
    assert Path("p.png").read_bytes() == before
    assert dtir("run", ".", "--output", ".")[0] == 2
    assert names(".") == ["p.png", "q.jpg", "q_safe.png"]


def test_output_that_is_a_file(dtir, portrait_path):
    Path("out").write_text("mine")
    code, _, err = dtir("run", portrait_path, "--output", "out")
    assert code == 2
    assert "is a file" in one_error_line(err)


@pytest.mark.usefixtures("full_disk")
def test_full_disk(dtir, portrait_path):
    code, _, err = dtir("run", portrait_path)
    assert code == 2
    assert "no space left" in one_error_line(err)
    assert names() == []


def test_changed_bundle(new_bundle, portrait_path, capsys):
    path = new_bundle().folder / "transfer.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    assert cli.main(["run", str(portrait_path), "--bundle", str(path.parent)]) == 2
    assert "transfer.onnx" in one_error_line(capsys.readouterr().err)


def test_engine_that_is_not_there(dtir, portrait_path):
    code, _, err = dtir("run", portrait_path, "--engine", "openvino", "--device", "cuda")
    assert code == 2
    assert "openvino does not run on cuda" in one_error_line(err)


def test_interrupted(dtir, portrait_path, monkeypatch):
    def interrupt(*_: object, **__: object):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "write_picture", interrupt)
    code, _, err = dtir("run", portrait_path)
    assert code == 130
    assert err == "dtir: interrupted\n"
    assert names() == ["grace_hopper.json", "grace_hopper_safe.png"]


def test_interrupted_video_leaves_nothing_half_written(bundle, portrait):
    with writing(Path("film.mp4"), 25) as writer:
        for _ in range(400):
            writer.write(portrait)
    process = start("run", "film.mp4", "--bundle", bundle.folder)
    deadline = time.monotonic() + 60
    while not list(Path().glob("dtir-output/.film*.mp4")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.endswith("dtir: interrupted\n")
    assert names() == []


def test_unreadable_video_gives_one_line(bundle):
    Path("film.mp4").write_bytes(b"\0" * 5000)
    process = start("run", "film.mp4", "--bundle", bundle.folder)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "film.mp4" in one_error_line(err)


@pytest.mark.parametrize("command", ["info", "run"])
def test_closed_pipe(bundle, portrait_path, command):
    words = [sys.executable, "-m", "dtir_sdk", command, "--bundle", bundle.folder]
    words += [portrait_path] if command == "run" else []
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        words,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert process.returncode == 1
    assert process.stderr == ""


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["info", "-h"], ["bench", "-h"]])
def test_help(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "dtir" in out
    if words[0] == "run":
        assert "CONTAINS" in out
        assert "--no-photo" in out


@pytest.mark.parametrize("words", [[], ["fly"], ["run"], ["run", "x", "--engine", "steam"]])
def test_wrong_words(words):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2


def test_info(dtir):
    code, out, err = dtir("info")
    assert (code, err) == (0, "")
    for words in ("openvino on cpu: works", "picked: ", "tiny", "knows nothing", "numpy"):
        assert words in out


def test_info_without_a_bundle(capsys):
    assert cli.main(["info", "--bundle", "none"]) == 2
    assert "none is not there" in capsys.readouterr().out


def test_bench(dtir, portrait_path):
    code, out, err = dtir("bench", portrait_path, "--rounds", 3, "--json", "b.json")
    assert (code, err) == (0, "")
    assert "detection" in out
    document = json.loads(Path("b.json").read_text())
    assert document["rounds"] == 3
    assert document["total"]["median"] > document["transfer_engine"]["median"] > 0


def test_bench_without_a_face(dtir, blank):
    write_picture("wall.png", blank)
    code, _, err = dtir("bench", "wall.png")
    assert code == 2
    assert "no face" in one_error_line(err)


def test_bench_without_rounds(dtir):
    code, _, err = dtir("bench", "--rounds", 0)
    assert code == 2
    assert "rounds" in one_error_line(err)


def test_bench_without_a_picture_takes_the_sample(dtir, bundle):
    code, out, _ = dtir("bench", "--bundle", bundle.folder, "--rounds", 1)
    assert code == 0
    assert "grace_hopper.jpg" in out


def test_sample(dtir, bundle):
    code, out, _ = dtir("run", "sample", "--bundle", bundle.folder)
    assert code == 0
    assert "grace_hopper.jpg: face 1" in out
    assert Path("dtir-output/grace_hopper.png").is_file()
