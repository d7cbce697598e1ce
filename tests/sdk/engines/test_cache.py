from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_sdk.engines.cache import EngineCache, EngineKey
from dtir_sdk.errors import EngineError
from dtir_sdk.faces import FaceFinder

KEY = EngineKey(
    onnx_sha256="ab" * 32,
    batches="1/1/1",
    library="tensorrt",
    library_version="10.9",
    cuda_version="13.0",
    driver_version="580.1",
    gpu="NVIDIA Test 1",
    compute_capability="8.9",
    precision="fp16",
    options="none",
)


class Builder:
    """Builds, and notes why."""

    def __init__(self, data: bytes = b"engine") -> None:
        self.data = data
        self.reasons: list[str] = []

    def __call__(self, why: str) -> bytes:
        self.reasons.append(why)
        return self.data


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def test_builds_once(cache):
    build = Builder()
    first = cache.fetch(KEY, "transfer.onnx", build)
    assert (first.data, first.built) == (b"engine", "there is none in the cache")
    second = cache.fetch(KEY, "transfer.onnx", build)
    assert (second.data, second.built) == (b"engine", None)
    assert len(build.reasons) == 1


def test_side_car_says_what_it_is(cache):
    cache.fetch(KEY, "transfer.onnx", Builder())
    (sidecar,) = cache.folder.glob("*.json")
    document = json.loads(sidecar.read_text())
    assert document["key"] == asdict(KEY)
    assert (document["graph"], document["bytes"]) == ("transfer.onnx", 6)
    assert document["sha256"] == hashlib.sha256(b"engine").hexdigest()


@pytest.mark.parametrize("name", [each.name for each in fields(EngineKey)])
def test_every_part_of_the_key_counts(cache, name):
    cache.fetch(KEY, "transfer.onnx", Builder(b"old"))
    build = Builder(b"new")
    assert cache.fetch(replace(KEY, **{name: "else"}), "transfer.onnx", build).data == b"new"
    if name not in ("onnx_sha256", "library"):
        words = name.replace("_", " ")
        assert build.reasons == [f"{words} was {getattr(KEY, name)}, is else"]
    assert cache.fetch(KEY, "transfer.onnx", build).data == b"old"


@given(st.binary(min_size=1, max_size=64), st.integers(min_value=0))
def test_a_changed_byte_rebuilds(tmp_path_factory, data, where):
    cache = EngineCache(tmp_path_factory.mktemp("cache"))
    cache.fetch(KEY, "transfer.onnx", Builder(data))
    (engine,) = cache.folder.glob("*.engine")
    changed = bytearray(data)
    changed[where % len(data)] ^= 1
    engine.write_bytes(changed)
    build = Builder(b"anew")
    assert cache.fetch(KEY, "transfer.onnx", build).data == b"anew"
    assert "damaged (SHA-256 differs" in build.reasons[0]
    assert cache.fetch(KEY, "transfer.onnx", build).built is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "cannot be read"),
        (b"[]", "built for something else"),
        (b'{"key": {}}', "built for something else"),
        (b"\xff\xfe", "cannot be read"),
        (None, "there is none"),
    ],
)
def test_damaged_side_car_rebuilds(cache, content, words):
    cache.fetch(KEY, "transfer.onnx", Builder())
    (sidecar,) = cache.folder.glob("*.json")
    if content is None:
        sidecar.unlink()
    else:
        sidecar.write_bytes(content)
    build = Builder()
    cache.fetch(KEY, "transfer.onnx", build)
    assert words in build.reasons[0]
    assert len(cache.entries()) == 1


def test_failed_build_leaves_nothing(cache):
    def fail(_: str) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fetch(KEY, "transfer.onnx", fail)
    assert cache.entries() == []
    assert cache.fetch(KEY, "transfer.onnx", Builder()).data == b"engine"


def test_the_least_recently_used_goes_first(tmp_path):
    cache = EngineCache(tmp_path / "engines", largest=250)
    keys = [replace(KEY, onnx_sha256=str(number) * 64) for number in range(4)]
    for number, key in enumerate(keys[:2]):
        cache.fetch(key, "transfer.onnx", Builder(bytes(100)))
        (sidecar,) = cache.folder.glob(f"{key.onnx_sha256[:12]}*.json")
        os.utime(sidecar, (number + 1, number + 1))
    assert cache.fetch(keys[0], "transfer.onnx", Builder()).built is None
    cache.fetch(keys[2], "transfer.onnx", Builder(bytes(100)))
    assert {entry.key for entry in cache.entries()} == {keys[0], keys[2]}
    cache.fetch(keys[3], "transfer.onnx", Builder(bytes(1000)))
    assert [entry.key for entry in cache.entries()] == [keys[3]]


def test_notes_count_too(tmp_path):
    cache = EngineCache(tmp_path / "engines", largest=250)
    cache.remember("first", bytes(100))
    os.utime(next(cache.folder.glob("*.note")), (1, 1))
    cache.remember("second", bytes(150))
    assert (cache.recall("first"), cache.recall("second")) == (b"", bytes(150))


def test_what_cannot_be_removed_stays(tmp_path, monkeypatch):
    """As a file that another user, or on Windows another process, has."""
    cache = EngineCache(tmp_path / "engines", largest=150)
    cache.remember("first", bytes(100))

    def refused(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        cache.remember("second", bytes(100))
    assert cache.recall("second") == bytes(100)


def test_notes(cache):
    assert cache.recall("timings") == b""
    cache.remember("timings", b"")
    assert cache.recall("timings") == b""
    cache.remember("timings", b"some")
    assert cache.recall("timings") == b"some"
    (note,) = cache.folder.glob("*.note")
    note.write_bytes(note.read_bytes()[:-1])
    assert cache.recall("timings") == b""


def test_what_a_killed_process_left_goes_in_the_end(cache):
    cache.fetch(KEY, "transfer.onnx", Builder())
    (stem,) = (path.stem for path in cache.folder.glob("*.engine"))
    left, recent, foreign = (
        cache.folder / name
        for name in (f".{stem}.0123abcd.part.engine", f".{stem}.4567cdef.part.json", ".me.part.txt")
    )
    for path in (left, recent, foreign):
        path.write_bytes(b"half")
    old = time.time() - 2 * 24 * 3600
    os.utime(left, (old, old))
    os.utime(foreign, (old, old))
    cache.fetch(replace(KEY, gpu="other"), "transfer.onnx", Builder())
    assert [path.exists() for path in (left, recent, foreign)] == [False, True, True]


def test_clear(cache):
    assert cache.clear() == 0
    cache.fetch(KEY, "transfer.onnx", Builder())
    cache.remember("timings", b"some")
    foreign = {"mine.txt", "package.json", "my.engine", "my.note", ".draft.partial", ".a.b.part.c"}
    for name in foreign:
        (cache.folder / name).write_text("not ours")
    assert cache.clear() > len(b"engine")
    assert cache.entries() == []
    assert {path.name for path in cache.folder.iterdir()} - {"building.lock"} == foreign
    assert cache.clear() == 0


def test_drop(cache):
    cache.fetch(KEY, "transfer.onnx", Builder())
    cache.drop(KEY)
    cache.drop(KEY)
    assert cache.entries() == []


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps others out by access lists")
def test_folder_of_another_user(cache, monkeypatch):
    cache.folder.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    for use in (
        lambda: cache.fetch(KEY, "transfer.onnx", Builder()),
        lambda: cache.recall("timings"),
        lambda: cache.remember("timings", b""),
        cache.entries,
        cache.clear,
    ):
        with pytest.raises(EngineError, match="belongs to another user: set DTIR_CACHE"):
            use()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps others out by access lists")
def test_folder_open_to_others(cache):
    cache.folder.mkdir()
    cache.folder.chmod(0o777)
    with pytest.raises(EngineError, match="written to by other users: run chmod"):
        cache.fetch(KEY, "transfer.onnx", Builder())


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps others out by access lists")
def test_own_folder_is_made_for_its_user_alone(cache):
    cache.fetch(KEY, "transfer.onnx", Builder())
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


def test_folder_that_cannot_be_written_is_refused_before_the_build(cache, monkeypatch):
    cache.folder.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    build = Builder()
    with pytest.raises(EngineError, match=r"cannot be written \(no permission\): set DTIR_CACHE"):
        cache.fetch(KEY, "transfer.onnx", build)
    assert build.reasons == []


def test_folder_that_may_only_be_read_still_serves(cache, monkeypatch):
    cache.fetch(KEY, "transfer.onnx", Builder())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "utime", refuse)
    assert cache.fetch(KEY, "transfer.onnx", Builder()).built is None


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "engines").write_text("")
    with pytest.raises(EngineError, match=r"cannot be made|is a file"):
        EngineCache(tmp_path / "engines").fetch(KEY, "transfer.onnx", Builder())


def test_folder_under_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match=r"cannot be (made|read) \(not a directory\): set"):
        EngineCache(tmp_path / "file" / "engines").fetch(KEY, "transfer.onnx", Builder())


@pytest.mark.usefixtures("full_disk")
def test_full_disk(cache):
    with pytest.raises(EngineError, match="no space left on device; set DTIR_CACHE"):
        cache.fetch(KEY, "transfer.onnx", Builder())
    assert cache.entries() == []


@pytest.fixture
def homeless(monkeypatch):
    """As in a container that runs as a user of no name."""

    def unknown(*_, **__):
        raise RuntimeError("Could not determine home directory")

    monkeypatch.delenv("DTIR_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", unknown)


def test_a_folder_named_by_its_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DTIR_CACHE", "~/mine")
    assert EngineCache().folder == tmp_path / "mine"


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DTIR_CACHE", str(tmp_path / "mine"))
    assert EngineCache().folder == tmp_path / "mine"
    monkeypatch.delenv("DTIR_CACHE")
    assert "dtir" in EngineCache().folder.parts


@pytest.mark.usefixtures("homeless")
def test_without_a_home_it_says_what_to_set():
    with pytest.raises(EngineError, match=r"no place for a cache .* set DTIR_CACHE to a folder"):
        EngineCache()


@pytest.mark.usefixtures("homeless")
def test_without_a_home_networks_are_compiled_at_each_start(portrait):
    assert len(FaceFinder().find(portrait)) == 1


# Says that it builds, waits for the word, and gives its own number as the engine.
_CHILD = """
import sys
from pathlib import Path
from dtir_sdk.engines.cache import EngineCache, EngineKey

def build(why):
    print("building", flush=True)
    sys.stdin.readline()
    return b"of the child"

key = EngineKey(**{key!r})
got = EngineCache(Path(sys.argv[1])).fetch(key, "transfer.onnx", build)
print(got.data.decode(), flush=True)
"""


@pytest.fixture
def child(cache):
    """A second process that is in the middle of a build."""
    code = _CHILD.replace("{key!r}", repr(asdict(KEY)))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(cache.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "building\n"
    yield process
    process.kill()
    process.communicate()


def test_second_process_waits_and_builds_nothing(cache, child):
    waited = []

    def waiting() -> None:
        waited.append(True)
        child.stdin.write("go\n")
        child.stdin.flush()

    build = Builder()
    assert cache.fetch(KEY, "transfer.onnx", build, waiting).data == b"of the child"
    assert (waited, build.reasons) == ([True], [])
    assert child.stdout.readline() == "of the child\n"


def test_a_killed_build_blocks_nobody(cache, child):
    child.kill()
    child.wait()
    build = Builder()
    assert cache.fetch(KEY, "transfer.onnx", build).data == b"engine"
    assert len(build.reasons) == 1


def test_clear_does_not_disturb_a_build(cache, child):
    with pytest.raises(EngineError, match="another process is building"):
        cache.clear()
    child.communicate("go\n")
    assert cache.clear() > 0
