from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dtir_sdk.errors import OutputError
from dtir_sdk.sinks import Origin, open_sink

FULL = Path("/dev/full")
PROGRAM = textwrap.dedent(
    """
    import sys
    import numpy as np
    from dtir_sdk.errors import OutputError
    from dtir_sdk.results import FrameStamp, Result, Timings
    from dtir_sdk.sinks import open_sink

    try:
        with open_sink("-") as sink:
            for number in range(100_000):
                stamp = FrameStamp(number, number / 30, 0.0)
                image = np.zeros((4, 4, 3), np.uint8)
                sink.write(Result((), image, Timings(*[0] * 8), stamp=stamp))
                if sink.finished():
                    break
    except OutputError as error:
        sys.exit(f"dtir: error: {error}")
    print("ended at", number, file=sys.stderr)
    """
)


@pytest.mark.parametrize("to", ["labels.jsonl", "-"])
def test_lines_of_a_live_run_say_when_a_frame_was_taken(tmp_path, result, to, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    made = result(3)
    taken = replace(made, stamp=replace(made.stamp, captured=time.perf_counter() - 60))
    for live in (True, False):
        with open_sink(to, Origin(live=live)) as sink:
            sink.write(taken)
        text = capfd.readouterr().out if to == "-" else Path(to).read_text("utf-8")
        Path(to).unlink(missing_ok=True)
        document = json.loads(text)
        assert document["frame"] == 3
        if live:
            moment = datetime.fromisoformat(document["time"])
            assert 59 < (datetime.now(UTC) - moment).total_seconds() < 90
            assert document["time"].endswith("+00:00")
        else:
            assert "time" not in document


@pytest.mark.parametrize("live", [False, True])
def test_a_line_a_frame(tmp_path, result, live):
    path = tmp_path / "new" / "labels.jsonl"
    with open_sink(str(path), Origin(live=live)) as sink:
        for number in range(3):
            sink.write(result(number))
            if live:
                assert len(path.read_bytes().splitlines()) == number + 1
    documents = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [document["frame"] for document in documents] == [0, 1, 2]
    assert documents[0]["faces"][0]["label"] == "männlich"
    assert list(path.parent.iterdir()) == [path]


def test_interrupted(tmp_path, result):
    path = tmp_path / "labels.jsonl"
    path.write_text("before")
    sink = open_sink(str(path))
    with pytest.raises(KeyboardInterrupt), sink:
        sink.write(result(0))
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert json.loads((tmp_path / "labels.partial.jsonl").read_text("utf-8"))["frame"] == 0
    assert "labels.partial.jsonl" in sink.notes[0]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("live", [False, True])
def test_nothing_is_left_of_a_run_that_never_began(tmp_path, live):
    """Such as where another sink could not be opened: the corrected command finds no file."""
    path = tmp_path / "labels.jsonl"
    for _ in range(2):
        sink = open_sink(str(path), Origin(live=live))
        with pytest.raises(OutputError, match="the other one"), sink:
            raise OutputError("the other one")
        assert sink.notes == (f"no frame was written to {path}",)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("live", [False, True])
def test_a_whole_run_without_a_frame(tmp_path, live):
    with open_sink(str(tmp_path / "labels.jsonl"), Origin(live=live)) as sink:
        pass
    assert (tmp_path / "labels.jsonl").read_bytes() == b""
    assert sink.notes == ()


def test_live_lines_replace_none(tmp_path):
    (tmp_path / "labels.jsonl").write_text("before")
    with pytest.raises(OutputError, match="is there already"):
        open_sink(str(tmp_path / "labels.jsonl"), Origin(live=True))
    assert (tmp_path / "labels.jsonl").read_text() == "before"


@pytest.mark.parametrize("live", [False, True])
def test_full_disk(tmp_path, result, small_disk, live):
    path = tmp_path / "labels.jsonl"
    sink = open_sink(str(path), Origin(live=live))

    def record():
        with sink:
            for number in range(1_000):
                sink.write(result(number))

    told = r"labels\.jsonl could not be written: file too large"
    with small_disk(2_000), pytest.raises(OutputError, match=told):
        record()
    kept = path if live else tmp_path / "labels.partial.jsonl"
    assert json.loads(kept.read_text("utf-8").splitlines()[0])["frame"] == 0
    assert list(tmp_path.iterdir()) == [kept]


def test_full_disk_at_the_end(tmp_path, result, small_disk):
    sink = open_sink(str(tmp_path / "labels.jsonl"))
    sink.write(result(0))
    told = r"labels\.jsonl could not be written: file too large"
    with small_disk(10), pytest.raises(OutputError, match=told):
        sink.close()
    sink.close()


def test_not_writable(tmp_path):
    (tmp_path / "labels.jsonl").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        open_sink(str(tmp_path / "labels.jsonl"))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written"):
        open_sink(str(tmp_path / "file" / "labels.jsonl"), Origin(live=True))


def test_after_close(tmp_path, result):
    sink = open_sink(str(tmp_path / "labels.jsonl"))
    sink.close()
    sink.close()
    with pytest.raises(OutputError, match="used after close"):
        sink.write(result())


def test_stdout(capfd, result):
    print("first")
    with open_sink("-") as sink:
        sink.write(result(7))
        sink.write(result(8))
    print("last")
    lines = capfd.readouterr().out.splitlines()
    assert (lines[0], lines[-1]) == ("first", "last")
    assert [json.loads(line)["frame"] for line in lines[1:-1]] == [7, 8]
    with pytest.raises(OutputError, match="used after close"):
        sink.write(result(9))


@pytest.mark.usefixtures("capsys")
def test_stdout_that_is_no_file():
    with pytest.raises(OutputError, match="stdout is no file here"):
        open_sink("-")


def test_pipe_that_is_left():
    """As with `| head -1`: the run ends, in good order and without a word."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert json.loads(process.stdout.readline())["frame"] == 0
    process.stdout.close()
    complaints = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert complaints.startswith("ended at ")
    assert len(complaints.splitlines()) == 1


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_stdout_on_a_full_disk():
    with FULL.open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == ("dtir: error: stdout could not be written: no space left on device\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_closed_stdout():
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, PROGRAM],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("dtir: error: stdout is closed: name a file")


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or os.name == "nt", reason="no signals here")
def test_one_sigterm_ends_a_run_whose_reader_sleeps():
    """Nothing that the pipe has no room for is waited for once more."""
    program = PROGRAM.replace("    with open_sink", "    with terminable(), open_sink").replace(
        "import sys\n", "import sys\nfrom dtir_sdk.stopping import terminable\n", 1
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        # Once the first line is there the pipe fills within the time that is waited.
        assert process.stdout.readline().startswith(b"{")
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) != 0
    finally:
        process.kill()
        process.communicate()
