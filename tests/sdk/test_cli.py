from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from dtir_sdk import Pipeline, benchmark, cli
from dtir_sdk.jobs import pictures
from dtir_sdk.pictures import read_picture, write_picture
from dtir_sdk.videos import VideoReader


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
    assert names() == [
        "grace_hopper.json",
        "grace_hopper_safe.png",
        "grace_hopper_side_by_side.png",
    ]
    document = json.loads(Path("dtir-output/grace_hopper.json").read_text())
    assert document["faces"][0]["label"] in ("female", "male")
    assert document["attribute"] == "gender"
    assert document["timings_ms"]["total"] > 0
    assert read_picture("dtir-output/grace_hopper_side_by_side.png").shape == (284, 3 * 264 - 8, 3)
    assert read_picture("dtir-output/grace_hopper_safe.png").shape == portrait.shape


def test_no_photo(dtir, portrait_path):
    assert dtir("run", portrait_path, "--no-photo", "--output", "out")[0] == 0
    assert read_picture("out/grace_hopper_side_by_side.png").shape == (284, 256, 3)


def test_bundle_without_restorer(new_bundle, tiny, portrait_path):
    models = {name: tiny.graphs[name] for name in ("transfer", "recognizer")}
    folder = new_bundle(models=models).folder
    assert cli.main(["run", str(portrait_path), "--bundle", str(folder)]) == 0
    assert read_picture("dtir-output/grace_hopper_side_by_side.png").shape == (284, 2 * 264 - 8, 3)


def test_no_photo_beside_what_another_run_showed(dtir, portrait_path, blank, tmp_path):
    assert dtir("run", portrait_path, "--output", "out")[0] == 0
    (sheet,) = Path("out").glob("*_side_by_side.png")
    other = tmp_path / "other" / f"{portrait_path.stem}.png"
    other.parent.mkdir()
    write_picture(other, blank)
    assert dtir("run", other, "--no-photo", "--output", "out")[0] == 3
    assert not sheet.exists()


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
    assert err.startswith(
        "dtir: 1 files in in are passed over, whose suffixes are none of pictures or videos: .txt 1"
    )
    assert out.count("face 1") == 2
    endings = (".json", "_safe.png", "_side_by_side.png")
    assert names() == sorted(f"{stem}{end}" for stem in ("b", "b.png") for end in endings)


def test_a_video(dtir, portrait, write_film):
    write_film("film.mp4", [portrait] * 3)
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
    write_picture("q_safe.png", portrait)
    write_picture("q.jpg", portrait)
    before = Path("q_safe.png").read_bytes()
    code, _, err = dtir("run", ".", "--output", ".")
    assert code == 2
    assert "would overwrite a source" in one_error_line(err)
    assert Path("q_safe.png").read_bytes() == before
    assert names(".") == ["q.jpg", "q_safe.png"]


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

    monkeypatch.setattr(pictures, "write_picture", interrupt)
    code, _, err = dtir("run", portrait_path)
    assert code == 130
    assert err == "dtir: interrupted\n"
    assert names() == ["grace_hopper.json", "grace_hopper_safe.png"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_video_keeps_what_was_written_apart(
    bundle, portrait, write_film, number, code
):
    write_film("film.mp4", [portrait] * 400, 25)
    process = start("run", "film.mp4", "--bundle", bundle.folder)
    deadline = time.monotonic() + 60
    while not list(Path().glob("dtir-output/.film*.mp4")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert err.endswith("dtir: interrupted\n")
    assert set(names()) <= {"film.partial.jsonl", "film.partial.mp4"}
    if "film.partial.mp4" in names():
        with VideoReader(Path("dtir-output/film.partial.mp4")) as video:
            assert next(iter(video)).shape == portrait.shape


def live_server(pictures: list[np.ndarray]) -> ThreadingHTTPServer:
    """Serves pictures as a camera on the network does, over and over."""

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with suppress(OSError):
                for picture in itertools.cycle(pictures):
                    data = cv2.imencode(".jpg", picture)[1].tobytes()
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}"
                    self.wfile.write(f"{head}\r\n\r\n".encode() + data + b"\r\n")
                    time.sleep(0.03)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_live_stream_ends_well_when_it_is_told_to(bundle, portrait, number):
    server = live_server([np.ascontiguousarray(portrait[::2, ::2])])
    address = f"http://127.0.0.1:{server.server_address[1]}/video.mjpg"
    process = start("run", address, "--to", "labels.jsonl", "--bundle", bundle.folder)
    deadline = time.monotonic() + 60
    lines = Path("labels.jsonl")
    while not lines.is_file() or lines.read_text().count("\n") < 3:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    server.shutdown()
    server.server_close()
    assert (process.returncode, err) == (0, "")
    assert " frames, " in out
    assert "p95" in out
    documents = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {face["track"] for document in documents for face in document["faces"]} == {1}


def test_threads_are_the_pipelines(dtir, portrait_path, monkeypatch):
    given = []
    made = Pipeline.__init__

    def noted(self, *arguments, **options):
        given.append(options["threads"])
        made(self, *arguments, **options)

    monkeypatch.setattr(Pipeline, "__init__", noted)
    assert dtir("run", str(portrait_path), "--threads", "1")[0] == 0
    assert dtir("run", str(portrait_path), "--to", "out/", "--threads", "2")[0] == 0
    assert given == [1, 2]
    code, _, err = dtir("run", str(portrait_path), "--threads", "0")
    assert code == 2
    assert "threads" in one_error_line(err)


def test_a_camera_that_is_not_there(dtir):
    code, out, err = dtir("run", "97", "--to", "labels.jsonl")
    assert (code, out) == (2, "")
    assert "camera 97" in one_error_line(err)
    assert not Path("labels.jsonl").exists()


def test_a_video_to_sinks(dtir, portrait, write_film):
    write_film("film.mp4", [portrait] * 3)
    code, out, err = dtir(
        "run", "film.mp4", "--to", "safe.mkv", "--to", "frames/", "--surround", "blank"
    )
    assert (code, err) == (0, "")
    assert "3 frames, 0 dropped" in out
    assert names("frames") == ["000000.png", "000001.png", "000002.png"]
    with VideoReader(Path("safe.mkv")) as video:
        assert len(list(video)) == 3
    assert (read_picture("frames/000001.png")[-20:] == 128).all()


def test_a_video_as_lines_on_stdout(bundle, portrait, write_film):
    write_film("film.mp4", [portrait] * 3)
    process = start("run", "film.mp4", "--to", "-", "--bundle", bundle.folder)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [json.loads(line)["frame"] for line in out.splitlines()] == [0, 1, 2]
    assert "3 frames" in err


def test_a_video_that_is_left_before_its_end(into_closed_pipe, bundle, blank, write_film):
    """Nothing is known of the rest of it, and what was there before stays."""
    write_film("film.mp4", [blank] * 50)
    Path("safe.mp4").write_bytes(b"before")
    words = ["film.mp4", "--to", "-", "--to", "safe.mp4", "--to", "labels.jsonl"]
    code, err = into_closed_pipe("-m", "dtir_sdk", "run", "--bundle", bundle.folder, *words)
    assert code == 0
    assert err.splitlines()[:3] == [
        "dtir: film.mp4 was left before its end",
        "dtir: what was written until then is safe.partial.mp4",
        "dtir: what was written until then is labels.partial.jsonl",
    ]
    assert "no face" not in err
    assert Path("safe.mp4").read_bytes() == b"before"
    assert not Path("labels.jsonl").exists()
    with VideoReader(Path("safe.partial.mp4")) as video:
        assert len(list(video)) == Path("labels.partial.jsonl").read_bytes().count(b"\n") < 50


def test_a_video_without_a_face(dtir, blank, write_film):
    write_film("film.mp4", [blank])
    code, _, err = dtir("run", "film.mp4", "--to", "safe.mp4")
    assert code == 3
    assert err == "dtir: film.mp4: no face was found in any frame\n"


def test_a_folder_of_pictures_goes_on_where_it_was(dtir, portrait, blank):
    Path("in").mkdir()
    for name, picture in {"a": portrait, "b": portrait[:, ::-1], "c": blank}.items():
        write_picture(f"in/{name}.png", np.ascontiguousarray(picture))
    code, out, err = dtir("run", "in", "--to", "out/")
    assert (code, err) == (3, "dtir: no face was found in 1 of 3 pictures\n")
    assert out.startswith("out: 3 pictures; faces: ")
    faces = out.partition("faces: ")[2]
    assert faces != "none\n"
    assert names("out") == ["a.json", "a.png", "b.json", "b.png", "c.json", "c.png"]
    document = json.loads(Path("out/a.json").read_text())
    assert (document["source"], document["safe"]) == (str(Path("in/a.png").resolve()), "a.png")
    assert read_picture("out/c.png").min() >= 128
    before = Path("out/b.png").stat().st_mtime_ns
    Path("out/a.json").write_text("{ cut sh")
    assert dtir("run", "in", "--to", "out/")[1].startswith("out: 1 pictures, 2 were done before")
    assert Path("out/b.png").stat().st_mtime_ns == before
    os.utime("in/b.png")
    assert dtir("run", "in", "--to", "out/")[1].startswith("out: 1 pictures, 2 were done before")
    assert Path("out/b.png").stat().st_mtime_ns > before
    assert dtir("run", "in", "--to", "out/") == (
        3,
        f"out: 0 pictures, 3 were done before; faces: {faces}",
        err,
    )


def test_a_picture_is_done_again_where_an_older_one_takes_its_place(dtir, portrait):
    """As by `mv`, `cp -p` or unpacking, which keep times."""
    Path("in").mkdir()
    write_picture("in/a.png", portrait)
    assert dtir("run", "in", "--to", "out/")[0] == 0
    before = read_picture("out/a.png")
    write_picture("in/a.png", np.ascontiguousarray(portrait[:, ::-1]))
    os.utime("in/a.png", (1e9, 1e9))
    assert dtir("run", "in", "--to", "out/")[1].startswith("out: 1 pictures; faces: ")
    assert (read_picture("out/a.png") != before).any()
    assert dtir("run", "in", "--to", "out/")[1].startswith("out: 0 pictures, 1 were done before")


def test_a_folder_of_pictures_is_done_again_where_more_is_to_be_hidden(dtir, portrait):
    Path("in").mkdir()
    write_picture("in/a.png", portrait)
    assert dtir("run", "in", "--to", "out/")[0] == 0
    code, out, _ = dtir("run", "in", "--to", "out/", "--surround", "blank")
    assert code == 0
    assert out.startswith("out: 1 pictures; faces: ")
    assert (read_picture("out/a.png")[-20:] == 128).all()


def test_pictures_of_the_same_name_from_elsewhere(dtir, portrait):
    for folder in "AB":
        Path(folder).mkdir()
        write_picture(f"{folder}/p.png", portrait)
    assert dtir("run", "A", "--to", "out/")[0] == 0
    before = Path("out/p.png").stat().st_mtime_ns
    code, out, err = dtir("run", "B", "--to", "out/")
    assert (code, out) == (2, "")
    assert f"out/p is taken by the results of {Path('A/p.png').resolve()}" in one_error_line(err)
    assert Path("out/p.png").stat().st_mtime_ns == before


def test_a_picture_keeps_its_results_where_others_come_or_go(dtir, portrait, blank):
    Path("in").mkdir()
    write_picture("in/a.jpg", portrait)
    assert dtir("run", "in", "--to", "out/")[0] == 0
    write_picture("in/a.bmp", blank)
    code, out, _ = dtir("run", "in", "--to", "out/")
    assert (code, out[:39]) == (3, "out: 1 pictures, 1 were done before; fa")
    assert names("out") == ["a.bmp.json", "a.bmp.png", "a.json", "a.png"]
    assert read_picture("out/a.png").shape == portrait.shape
    assert read_picture("out/a.bmp.png").shape == blank.shape
    Path("in/a.jpg").unlink()
    assert dtir("run", "in", "--to", "out/")[1].startswith("out: 0 pictures, 1 were done before")


def test_a_bundle_of_the_same_name_with_other_graphs(new_bundle, tiny, portrait, capsys):
    Path("in").mkdir()
    write_picture("in/a.png", portrait)
    upright = tiny.model(
        [onnx.helper.make_node("Identity", ["image"], ["transferred"])],
        [tiny.picture_value("image")],
        [tiny.picture_value("transferred")],
    )
    pictures = []
    for transfer in (tiny.graphs["transfer"], (upright, "fp32")):
        models = {"transfer": transfer, "recognizer": tiny.graphs["recognizer"]}
        folder = new_bundle(models=models).folder
        assert cli.main(["run", "in", "--to", "out/", "--bundle", str(folder)]) == 0
        assert capsys.readouterr().out.startswith("out: 1 pictures; faces: ")
        pictures.append(read_picture("out/a.png"))
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize("graph", ["transfer", "recognizer"])
def test_a_bundle_of_the_same_name_that_was_trained_anew(new_bundle, tiny, portrait, capsys, graph):
    Path("in").mkdir()
    write_picture("in/a.png", portrait)
    models = {name: tiny.graphs[name] for name in ("transfer", "recognizer")}
    trained = onnx.load_from_string(models[graph][0])
    trained.doc_string = "trained anew"
    for changed in ({}, {graph: (trained.SerializeToString(), "fp32")}):
        folder = new_bundle(models=models | changed).folder
        assert cli.main(["run", "in", "--to", "out/", "--bundle", str(folder)]) == 0
        assert capsys.readouterr().out.startswith("out: 1 pictures; faces: ")


def test_a_picture_with_the_photo_takes_the_place_of_none_that_is_safe(dtir, portrait):
    Path("in").mkdir()
    for name in ("a", "a_safe"):
        write_picture(f"in/{name}.png", portrait)
    assert dtir("run", "in", "--to", "out/")[0] == 0
    safe = read_picture("out/a.png")
    for _ in range(2):
        assert dtir("run", "in", "--output", "out")[0] == 0
        sheets = {file.name for file in Path("out").glob("*_side_by_side.png")}
        assert sheets == {"a_side_by_side.png", "a_safe_side_by_side.png"}
        for file in set(names("out")) - sheets:
            if file.endswith(".png"):
                assert (read_picture(f"out/{file}") == safe).all()
    # That one is still there does not make the other's document its own.
    assert dtir("run", "in", "--to", "out/")[1].startswith("out: 2 pictures; faces: ")


@pytest.mark.parametrize(
    "target", ["window", "camera", "camera:/dev/video9", "-", "http://localhost:8080/", "out"]
)
def test_pictures_go_to_no_other_sink(dtir, portrait, target):
    write_picture("p.png", portrait)
    code, _, err = dtir("run", "p.png", "--to", target)
    assert code == 2
    assert "pictures go to one folder" in one_error_line(err)
    assert names(".") == ["p.png"]
    Path("window").mkdir()
    assert dtir("run", "p.png", "--to", "window")[0] == 2


@pytest.mark.parametrize("target", ["safe.v2/", "there.v2"])
def test_a_folder_with_a_dot(dtir, portrait, target):
    Path("there.v2").mkdir()
    write_picture("p.png", portrait)
    assert dtir("run", "p.png", "--to", target)[0] == 0
    assert names(target) == ["p.json", "p.png"]


def test_a_folder_of_pictures_that_was_interrupted_while_it_was_done_again(dtir, portrait):
    """The safe picture is new already, and the document still tells of the old one."""
    write_picture("a.png", portrait)
    assert dtir("run", "a.png", "--to", "out/", "--surround", "blank")[0] == 0
    document = Path("out/a.json").stat()
    assert dtir("run", "a.png", "--to", "kept/")[0] == 0
    Path("kept/a.png").replace("out/a.png")
    os.utime("out/a.png", ns=(document.st_atime_ns, document.st_mtime_ns + 1))
    _, out, _ = dtir("run", "a.png", "--to", "out/", "--surround", "blank")
    assert out.startswith("out: 1 pictures; faces: ")
    assert (read_picture("out/a.png")[-20:] == 128).all()


def test_a_folder_with_a_broken_picture_to_a_folder(dtir, portrait):
    Path("in").mkdir()
    write_picture("in/a.png", portrait)
    Path("in/b.jpg").write_bytes(b"broken")
    code, out, err = dtir("run", "in", "--to", "out/")
    assert code == 1
    assert out.startswith("out: 1 pictures; faces: ")
    assert "in/b.jpg" in err
    assert err.endswith("dtir: 1 of 2 files could not be read\n")
    assert names("out") == ["a.json", "a.png"]


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_ends_a_batch(dtir, portrait):
    Path("in").mkdir()
    for name in "abcdef":
        cv2.imwrite(f"in/{name}.png", portrait)
    code, _, err = dtir("run", "in", "--to", "out/")
    assert code == 2
    assert "no space left" in one_error_line(err)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["0", "--output", "out"], "--to"),
        (["sample", "--to", "labels.jsonl"], "one folder"),
        (["sample", "--show"], "one folder"),
        (["sample", "--to", "out/", "--output", "out"], "--output"),
        (["in", "--to", "film.mp4"], "holds 2 files"),
        (["in/a.mp4", "--to", "film.gif"], "names no sink"),
        (["in/a.mp4", "--to", "in/a.mp4"], "the source itself"),
        (["in/a.mp4", "--hold", "-1"], "hold"),
        (["in/a.mp4", "--detect-every", "0"], "detect_every"),
    ],
)
def test_options_that_do_not_fit(dtir, portrait, words, told, write_film):
    Path("in").mkdir()
    for name in "ab":
        write_film(f"in/{name}.mp4", [portrait])
    code, _, err = dtir("run", *words)
    assert code == 2
    assert told in one_error_line(err)
    assert not Path("out").exists()


def test_unreadable_video_gives_one_line(bundle):
    Path("film.mp4").write_bytes(b"\0" * 5000)
    process = start("run", "film.mp4", "--bundle", bundle.folder)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "film.mp4" in one_error_line(err)


@pytest.mark.parametrize("command", ["info", "run"])
def test_closed_pipe(into_closed_pipe, bundle, portrait_path, command):
    words = [portrait_path] if command == "run" else []
    found = into_closed_pipe("-m", "dtir_sdk", command, "--bundle", bundle.folder, *words)
    assert found == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", [("info",), ("cache", "list"), ("run", "--help")])
def test_a_full_disk_under_stdout_is_one_line(words):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dtir_sdk", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "dtir: error: stdout could not be written: no space left on device\n"


def test_help_into_a_closed_pipe(into_closed_pipe):
    assert into_closed_pipe("-m", "dtir_sdk", "--help") == (1, "")


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


def test_info_of_graphs_that_cannot_be_loaded(new_bundle, capsys):
    """Whose hashes are right, but not what the manifest says of them."""
    folder = new_bundle().folder
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["labels"] = ["one", "two", "three", "four", "five", "six", "seven"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["info", "--bundle", str(folder)]) == 2
    assert "has the signature" in capsys.readouterr().out


@pytest.mark.parametrize("stderr", ["closed", "full"])
def test_errors_that_nobody_can_read(monkeypatch, capsys, stderr):
    """They are not put among the lines on stdout, and the exit code is what it would be."""
    if stderr == "full" and not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    with Path("/dev/full" if stderr == "full" else os.devnull).open("w") as file:
        monkeypatch.setattr(sys, "stderr", None if stderr == "closed" else file)
        assert cli.main(["run", "nosuch.jpg"]) == 2
        with suppress(OSError):
            file.close()
    assert capsys.readouterr().out == ""


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


@pytest.mark.parametrize("report", [".", "/", "file/b.json"])
def test_bench_with_nowhere_to_write_to(dtir, portrait_path, monkeypatch, report):
    """It is told before anything is measured."""
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("it was measured"))
    Path("file").touch()
    code, _, err = dtir("bench", portrait_path, "--json", report)
    assert code == 2
    assert "folder" in err or "could not be written" in err
    one_error_line(err)
    assert names(".") == ["file"]


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
    assert Path("dtir-output/grace_hopper_side_by_side.png").is_file()


def test_nothing_is_sent_and_nothing_left_at_home(tmp_path):
    """Packages that tell their makers of every start do not get to do so."""
    home = tmp_path / "home"
    home.mkdir()
    program = """
import socket, sys
def refused(*arguments): raise AssertionError(f"connects to {arguments}")
socket.socket.connect = socket.create_connection = refused
from dtir_sdk import Pipeline
from dtir_sdk.sources import SAMPLE_PORTRAIT
import cv2
with Pipeline() as pipeline:
    assert pipeline(cv2.imread(str(SAMPLE_PORTRAIT))).faces
assert "openvino_telemetry" not in sys.modules
"""
    cache = {"HOME": str(home), "DTIR_CACHE": str(tmp_path / "cache")}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")} | cache
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(home.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes the output")
def test_an_output_that_was_closed_before_the_start():
    command = f'"{sys.executable}" -m dtir_sdk info >&-'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("info",), ("run", "sample", "--engine", "onnxruntime")])
def test_an_openvino_that_cannot_be_loaded_is_told(tmp_path, words):
    """Whatever engine runs the bundle, it finds the faces."""
    stub = tmp_path / "broken" / "openvino" / "__init__.py"
    stub.parent.mkdir(parents=True)
    stub.write_text("raise ImportError('libtbb.so.12: cannot open shared object file')")
    done = subprocess.run(
        [sys.executable, "-m", "dtir_sdk", *words],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "broken")},
        capture_output=True,
        text=True,
        check=False,
    )
    told = "openvino cannot be loaded (libtbb.so.12: cannot open shared object file)"
    assert done.returncode == 2
    if words == ("info",):
        assert f"openvino on cpu: {told}: pip install openvino" in done.stdout
        assert "no faces can be found: " in done.stdout
        assert done.stderr == ""
    else:
        assert told in one_error_line(done.stderr)
