"""Engines that took long to build, kept between runs, and notes that make a start shorter.

An engine is a program: it is loaded only from a folder that nobody else can write to, and only
when it is, byte for byte, what its side-car recorded.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dtir_sdk.errors import EngineError, OutputError
from dtir_sdk.files import reason, write_atomically

FOLDER_VARIABLE = "DTIR_CACHE"
LARGEST = 2 << 30

_FORMAT = 1
_ENGINE, _SIDECAR, _NOTE, _LOCK = ".engine", ".json", ".note", "building.lock"
# The names that `_path` and `_note` give, and those of files that are being written: whatever else
# is in a folder that the user names is not the cache's.
_DIGIT = "[0-9a-f]"
_STEM = f"{_DIGIT * 12}-{_DIGIT * 20}"
_NOTES = f"{_DIGIT * 32}{_NOTE}"
_HALF_WRITTEN = tuple(
    f".{stem}.{_DIGIT * 8}.part{suffix}"
    for stem, suffix in ((_STEM, _ENGINE), (_STEM, _SIDECAR), (_DIGIT * 32, _NOTE))
)
_REMEDY = f"set {FOLDER_VARIABLE} to a folder of your own"
# What a killed process left half written is removed after so many seconds.
_ABANDONED = 24 * 3600
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class EngineKey:
    """What an engine was built from and for; where anything differs, it is another engine.

    Attributes:
        onnx_sha256: SHA-256 of the ONNX file.
        batches: the batch sizes that it takes.
        library: `tensorrt` or `tensorrt-rtx`.
        library_version: its version.
        cuda_version: the CUDA version that the driver offers.
        driver_version: the driver's version.
        gpu: the card's name.
        compute_capability: such as `8.9`.
        precision: the arithmetic.
        options: the builder's other options.
    """

    onnx_sha256: str
    batches: str
    library: str
    library_version: str
    cuda_version: str
    driver_version: str
    gpu: str
    compute_capability: str
    precision: str
    options: str

    def digest(self) -> str:
        """Returns 64 hexadecimal digits that stand for the key."""
        return _sha256(json.dumps(asdict(self), sort_keys=True).encode())

    def changes(self, former: EngineKey) -> str:
        """Says what is not as it was in a former key, such as `gpu was A, is B`."""
        before, now = asdict(former), asdict(self)
        return ", ".join(
            f"{name.replace('_', ' ')} was {before[name]}, is {now[name]}"
            for name in now
            if before[name] != now[name]
        )


@dataclass(frozen=True)
class CacheEntry:
    """An engine in the cache.

    Attributes:
        path: the engine's file.
        graph: the name of the graph that it was built from.
        key: what it was built from and for.
        size: bytes.
        built: when, as ISO 8601 in UTC.
        used: when it was last loaded or built, in seconds since 1970.
    """

    path: Path
    graph: str
    key: EngineKey
    size: int
    built: str
    used: float


@dataclass(frozen=True)
class Fetched:
    """What `EngineCache.fetch` gives.

    Attributes:
        data: the engine.
        built: why it had to be built; None where it was found.
    """

    data: bytes
    built: str | None


class EngineCache:
    """The folder of built engines. May be used by several threads and processes at once.

    Engines are read without a lock, since they are written whole or not at all. One process
    builds at a time: two builds on one card would falsify each other's measurements.

    Args:
        folder: where; None is `default_folder()`. Made when first written to.
        largest: bytes; when the engines take more, those go first that were not used for longest.
    """

    def __init__(self, folder: Path | None = None, largest: int = LARGEST) -> None:
        self.folder = default_folder() if folder is None else folder
        self.largest = largest

    def fetch(
        self,
        key: EngineKey,
        graph: str,
        build: Callable[[str], bytes],
        waiting: Callable[[], None] = lambda: None,
    ) -> Fetched:
        """Returns the engine of a key; builds it where it is not there or not what it was.

        Args:
            key: what the engine is for.
            graph: name of the graph, for the listing.
            build: makes the engine; is told why.
            waiting: called where another process is building and must be waited for.

        Raises:
            EngineError: the folder is another user's, open to others, or cannot be written.
        """
        found, _ = self._read(key)
        if found is not None:
            return Fetched(found, None)
        with self._building(waiting):
            # Another process may have built it while this one waited.
            found, why = self._read(key)
            if found is not None:
                return Fetched(found, None)
            data = build(why)
            self._write(key, graph, data)
            return Fetched(data, why)

    def drop(self, key: EngineKey) -> None:
        """Forgets the engine of a key, such as one that would not load."""
        with self._building(lambda: None):
            self._remove(self._path(key))

    def recall(self, name: str) -> bytes:
        """Returns what `remember` kept under a name, or nothing where it is gone or damaged.

        Raises:
            EngineError: the folder is another user's or open to others.
        """
        self._check_owner()
        path = self._note(name)
        try:
            data = path.read_bytes()
        except OSError:
            return b""
        digest, content = data[:_DIGEST], data[_DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            return b""
        _touch(path)
        return content

    def remember(self, name: str, data: bytes) -> None:
        """Keeps data that shortens later builds or starts and can be lost.

        Args:
            name: what to call it.
            data: the data.

        Raises:
            EngineError: the folder is another user's, open to others, or cannot be written.
        """
        self._prepare()
        path = self._note(name)
        self._save(path, hashlib.sha256(data).digest() + data)
        self._shrink(keep=path)

    def entries(self) -> list[CacheEntry]:
        """Lists the engines, the last used first; damaged ones are left out.

        Raises:
            EngineError: the folder is another user's, open to others, or cannot be read.
        """
        self._check_owner()
        try:
            sidecars = sorted(self.folder.glob(_STEM + _SIDECAR))
        except OSError as error:
            raise self._refused("read", error) from error
        found = (self._entry(path) for path in sidecars)
        return sorted((entry for entry in found if entry), key=lambda entry: -entry.used)

    def notes(self) -> list[int]:
        """Returns the bytes that each thing takes that `remember` keeps."""
        return [_size(path) for path in self.folder.glob(_NOTES)]

    def size(self) -> int:
        """Returns the bytes that everything in the cache takes."""
        return sum(_size(path) for path in self._own_files())

    def clear(self) -> int:
        """Removes everything that the cache holds.

        Returns:
            The bytes that were freed.

        Raises:
            EngineError: another process is building, or the folder is another user's, open to
                others, or cannot be written.
        """
        if not self.folder.exists():
            return 0

        def refuse() -> None:
            raise EngineError(
                f"another process is building an engine in {self.folder}: clear it afterwards"
            )

        freed = 0
        with self._building(refuse):
            for path in self._own_files():
                try:
                    size = path.stat().st_size
                    path.unlink()
                except OSError as error:
                    raise self._refused("cleared", error) from error
                freed += size
        return freed

    def _read(self, key: EngineKey) -> tuple[bytes | None, str]:
        """The engine, or None with the reason why it must be built."""
        self._check_owner()
        path = self._path(key)
        try:
            sidecar = json.loads(path.with_suffix(_SIDECAR).read_bytes())
            data = path.read_bytes()
        except FileNotFoundError:
            return None, self._missing(key)
        except (OSError, ValueError) as error:
            return None, f"the cached one cannot be read ({reason(error)})"
        if not isinstance(sidecar, dict) or sidecar.get("key") != asdict(key):
            return None, "the cached one was built for something else"
        if sidecar.get("sha256") != _sha256(data):
            return None, "the cached one is damaged (SHA-256 differs from the recorded one)"
        _touch(path.with_suffix(_SIDECAR))
        return data, ""

    def _missing(self, key: EngineKey) -> str:
        """Names what changed since the most similar engine of the same graph was built."""
        near = [
            entry.key
            for entry in self.entries()
            if entry.key.onnx_sha256 == key.onnx_sha256 and entry.key.library == key.library
        ]
        if not near:
            return "there is none in the cache"
        changes = min(
            (key.changes(former) for former in near), key=lambda text: text.count(" was ")
        )
        return changes or "the cached one is incomplete"

    def _write(self, key: EngineKey, graph: str, data: bytes) -> None:
        path = self._path(key)
        document = {
            "format": _FORMAT,
            "graph": graph,
            "sha256": _sha256(data),
            "bytes": len(data),
            "built": datetime.now(UTC).isoformat(timespec="seconds"),
            "key": asdict(key),
        }
        # The side-car comes last: an engine without one is not loaded.
        self._save(path, data)
        self._save(path.with_suffix(_SIDECAR), f"{json.dumps(document, indent=2)}\n".encode())
        self._shrink(keep=path)

    def _shrink(self, keep: Path) -> None:
        """Removes what was not used for longest, and what a killed process left half written."""
        notes = self.folder.glob(_NOTES)
        items = [(entry.used, entry.path, entry.size) for entry in self.entries()]
        items += [(time.time() - _age(path), path, _size(path)) for path in notes]
        total = sum(size for _, _, size in items)
        for _, path, size in sorted(items):
            if total > self.largest and path != keep:
                # Where another process or user holds it, that one or the next removes it.
                with suppress(OSError):
                    self._remove(path)
                total -= size
        for path in self._half_written():
            if _age(path) > _ABANDONED:
                with suppress(OSError):
                    path.unlink()

    def _entry(self, sidecar: Path) -> CacheEntry | None:
        path = sidecar.with_suffix(_ENGINE)
        try:
            document: dict[str, Any] = json.loads(sidecar.read_bytes())
            key = EngineKey(**{each.name: document["key"][each.name] for each in fields(EngineKey)})
            used, size = sidecar.stat().st_mtime, path.stat().st_size
            return CacheEntry(path, document["graph"], key, size, document["built"], used)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _own_files(self) -> Iterator[Path]:
        for pattern in (_STEM + _SIDECAR, _STEM + _ENGINE, _NOTES):
            yield from self.folder.glob(pattern)
        yield from self._half_written()

    def _half_written(self) -> Iterator[Path]:
        for pattern in _HALF_WRITTEN:
            yield from self.folder.glob(pattern)

    def _remove(self, path: Path) -> None:
        # The side-car goes first: see `_write`.
        for each in (path.with_suffix(_SIDECAR), path):
            each.unlink(missing_ok=True)

    def _path(self, key: EngineKey) -> Path:
        return self.folder / f"{key.onnx_sha256[:12]}-{key.digest()[:20]}{_ENGINE}"

    def _note(self, name: str) -> Path:
        return self.folder / f"{_sha256(name.encode())[:32]}{_NOTE}"

    def _save(self, path: Path, data: bytes) -> None:
        try:
            write_atomically(path, data)
        except OutputError as error:
            raise EngineError(f"{error}; {_REMEDY}") from error

    @contextmanager
    def _building(self, waiting: Callable[[], None]) -> Iterator[None]:
        from filelock import FileLock, Timeout

        self._prepare()
        lock = FileLock(self.folder / _LOCK)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                waiting()
                lock.acquire()
        except OSError as error:
            raise self._refused("written", error) from error
        try:
            yield
        finally:
            lock.release()

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused("made", error) from error
        self._check_owner()
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise self._refused("written", PermissionError("no permission"))

    def _check_owner(self) -> None:
        """Refuses a folder in which somebody else could have put an engine."""
        try:
            status = self.folder.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refused("read", error) from error
        if not stat.S_ISDIR(status.st_mode):
            raise EngineError(f"the engine cache {self.folder} is a file: {_REMEDY}")
        # On Windows the folder's access list, which its parent's gives it, does this.
        if hasattr(os, "geteuid"):
            if status.st_uid != os.geteuid():
                raise EngineError(
                    f"the engine cache {self.folder} belongs to another user: {_REMEDY}"
                )
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise EngineError(
                    f"the engine cache {self.folder} can be written to by other users: "
                    f"run chmod go-w on it, or {_REMEDY}"
                )

    def _refused(self, what: str, error: OSError) -> EngineError:
        return EngineError(
            f"the engine cache {self.folder} cannot be {what} ({reason(error)}): {_REMEDY}"
        )


def default_folder() -> Path:
    """Returns `$DTIR_CACHE`, or the system's place for caches.

    Raises:
        EngineError: there is none, as for a user without a home.
    """
    from platformdirs import user_cache_path

    named = os.environ.get(FOLDER_VARIABLE)
    try:
        if named:
            return Path(named).expanduser()
        return user_cache_path("dtir", appauthor=False) / "engines"
    except RuntimeError as error:
        raise EngineError(
            f"there is no place for a cache ({reason(error)}): set {FOLDER_VARIABLE} to a folder"
        ) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _touch(path: Path) -> None:
    # A cache that may only be read still serves; it merely forgets the order of use.
    with suppress(OSError):
        os.utime(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
