"""What the README and the examples show is run as it stands there, and type-checked."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from socketserver import StreamRequestHandler, TCPServer
from threading import Thread

import pytest

from dtir_export.cli import main as export
from dtir_sdk import Source
from dtir_sdk.faces import FaceFinder, alignment, crop_face
from dtir_sdk.pictures import read_picture
from dtir_sdk.sources import SAMPLE_PORTRAIT

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# What the pages leave to the reader.
READERS = ("aligned_face", "ask", "bridge", "Image", "node", "publisher", "show")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photo.jpg and the bundled model split by role."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE_PORTRAIT, tmp_path / "photo.jpg")
    for role in ("edge", "cloud", "authority"):
        assert export(["--role", role, "--output", f"bundle-{role}"]) == 0
    return tmp_path


def run_example(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "examples" / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_readme_python(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = read_picture("photo.jpg")
    # Camera 0 sees the portrait.
    opened = Source.open([frame] * 3, rate=30)
    monkeypatch.setattr(Source, "open", {0: opened}.__getitem__)
    face = FaceFinder().find(frame)[0]
    crop = crop_face(frame, alignment(face.landmarks, 128), 128)
    names: dict[str, object] = {"aligned_face": crop}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert out.count("male") == 5
    assert out.count("[(1, ") == 3
    assert (place / "safe.png").is_file()


@pytest.mark.parametrize(
    ("script", "arguments", "written"),
    [
        ("cartoon_of_a_photo.py", ["photo.jpg"], "cartoon.png"),
        ("three_parties.py", [".", "photo.jpg"], "restored.png"),
    ],
)
def test_example(script: str, arguments: list[str], written: str, place: Path) -> None:
    done = run_example(script, *arguments)
    assert done.returncode == 0, done.stderr
    assert "male" in done.stdout
    assert (place / written).stat().st_size > 0


@pytest.mark.usefixtures("place")
def test_examples_of_edge_and_cloud() -> None:
    words = [sys.executable, ROOT / "examples" / "cloud.py", "bundle-cloud", "127.0.0.1", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as cloud:
        try:
            assert cloud.stdout is not None
            address = cloud.stdout.readline().split()[-1]
            done = run_example("edge.py", "bundle-edge", address, "photo.jpg")
            asked = HTTPConnection(address.removeprefix("http://"))
            asked.request("POST", "/", headers={"Content-Length": "9" * 5000})
            assert asked.getresponse().status == 400
            asked.close()
        finally:
            cloud.send_signal(signal.SIGINT)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\['1: male \d+%'\]\n", done.stdout)
    assert cloud.returncode == 0
    gone = run_example("edge.py", "bundle-edge", address, "photo.jpg")
    assert gone.returncode == 0
    assert "refused" in gone.stderr
    assert gone.stdout == "['1: not read 100%']\n"


def test_the_edge_goes_on_without_an_answer_of_the_cloud(place: Path) -> None:
    """Whether it breaks off, is no JSON, or is no HTTP."""
    head = b"HTTP/1.0 200 OK\r\nContent-Length: "
    answers = [head + b'50\r\n\r\n[{"fem', head + b"9\r\n\r\n<no JSON>", b"no HTTP"]
    photos = place / "photos"
    photos.mkdir()
    for number in range(len(answers)):
        shutil.copy(SAMPLE_PORTRAIT, photos / f"{number}.jpg")

    class Desk(StreamRequestHandler):
        def handle(self) -> None:
            head = iter(self.rfile.readline, b"\r\n")
            (length,) = (line.split()[1] for line in head if line.startswith(b"Content-Length"))
            self.rfile.read(int(length))
            self.wfile.write(answers.pop(0))

    with TCPServer(("127.0.0.1", 0), Desk) as cloud:
        Thread(target=cloud.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{cloud.server_address[1]}"
        done = run_example("edge.py", "bundle-edge", address, "photos")
        cloud.shutdown()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not read 100%") == 3
    assert done.stderr.count(f"{address}: ") == len(done.stderr.splitlines()) == 3


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("script", "arguments", "line"),
    [
        ("cartoon_of_a_photo.py", [], "usage: "),
        ("cartoon_of_a_photo.py", ["nowhere.jpg"], "error: nowhere.jpg is not there"),
        ("three_parties.py", ["photo.jpg"], "usage: "),
        ("three_parties.py", [".", "nowhere.jpg"], "error: nowhere.jpg is not there"),
        ("three_parties.py", ["nowhere", "photo.jpg"], "error: nowhere/bundle-edge"),
        ("cloud.py", [], "usage: "),
        ("cloud.py", ["bundle-edge", "127.0.0.1", "0"], "error: bundle-edge"),
        ("cloud.py", ["bundle-cloud", "nowhere.invalid", "0"], "error: nowhere.invalid:0: "),
        ("cloud.py", ["bundle-cloud", "127.0.0.1", "99999"], "error: 127.0.0.1:99999: "),
        ("cloud.py", ["bundle-cloud", "127.0.0.1", "9" * 5000], "usage: "),
        ("edge.py", [], "usage: "),
        ("edge.py", ["bundle-cloud", "http://127.0.0.1:1", "photo.jpg"], "error: bundle-cloud"),
    ],
)
def test_an_example_ends_on_a_mistake_with_one_line(
    script: str, arguments: list[str], line: str
) -> None:
    done = run_example(script, *arguments)
    assert done.returncode != 0
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1


def test_an_example_tells_that_its_picture_was_not_written(place: Path) -> None:
    (place / "cartoon.png").mkdir()
    done = run_example("cartoon_of_a_photo.py", "photo.jpg")
    assert done.returncode != 0
    assert done.stderr == "error: cartoon.png is a folder: name a file instead\n"


@pytest.mark.slow
def test_what_is_shown_passes_a_type_checker(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    shown = [*ROOT.glob("examples/*.py")]
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for number, block in enumerate(
            re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
        ):
            shown.append(tmp_path / f"{page.stem}_{number}.py".replace("-", "_"))
            left = "".join(f"{name}: Any\n" for name in READERS)
            shown[-1].write_text(f"from typing import Any\n{left}{block}")
    assert len(shown) > 10
    # As whoever installed dtir has it: without this project's settings.
    words = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", tmp_path / "cache"]
    options = ["--check-untyped-defs", "--ignore-missing-imports", "--follow-imports=silent"]
    done = subprocess.run(
        [*words, *options, *shown],
        env=os.environ | {"MYPYPATH": str(ROOT / "sdk")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_example_is_run() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {
        "cartoon_of_a_photo.py",
        "cloud.py",
        "edge.py",
        "three_parties.py",
    }


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, as GitHub makes it of them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]
    assert len(pages) > 7
    for page in pages:
        for link, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
            if "://" in link:
                continue
            target = page.parent / link if link else page
            assert target.exists(), f"{page.name} links to {link}"
            if anchor:
                assert anchor in anchors(target), f"{page.name} links to {link}#{anchor}"
