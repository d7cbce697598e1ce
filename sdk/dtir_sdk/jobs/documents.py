"""The JSON beside a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dtir_sdk.pipeline import Pipeline
from dtir_sdk.results import Result


def origin_of(source: Path, safe: Path, pipeline: Pipeline) -> dict[str, Any]:
    """Says what a result depends on, in types that JSON knows.

    What tells that the picture is still the same is taken now: ask before it is read.

    Args:
        source: the picture.
        safe: the picture that is safe to show.
        pipeline: that it is made by.
    """
    manifest = pipeline.bundle.manifest
    return {
        "source": str(source.resolve()),
        "changed": _changed(source),
        "safe": safe.name,
        "bundle": manifest.name,
        "graphs": {name: manifest.files[name].sha256 for name in ("transfer", "recognizer")},
        "attribute": manifest.attribute,
        "labels": list(manifest.labels),
        "crop": manifest.crop,
        "options": {"faces": pipeline.faces, "surround": pipeline.surround},
    }


def document_of(origin: dict[str, Any], pipeline: Pipeline, result: Result) -> bytes:
    """Says what was made of a picture, by which bundle and engine, as indented JSON in UTF-8.

    Args:
        origin: from `origin_of`.
        pipeline: that the result is from.
        result: of the picture.
    """
    document = {
        **origin,
        "engine": str(pipeline.engine),
        **result.to_dict(),
    }
    text = json.dumps(document, indent=2, ensure_ascii=False)
    # A file's name need not be text; JSON has the same escapes as Python for what is none.
    return f"{text}\n".encode(errors="backslashreplace")


def source_in(path: Path) -> Path | None:
    """Returns the picture, resolved, that a document tells of; None where it is no document."""
    source = _read(path).get("source")
    try:
        return Path(source).resolve() if isinstance(source, str) else None
    except (OSError, ValueError):
        return None


def labels_in(path: Path, origin: dict[str, Any]) -> list[str] | None:
    """Returns the labels of the faces in a document; None where it is none of this origin."""
    document = _read(path)
    if not origin.items() <= document.items():
        return None
    try:
        return [str(face["label"]) for face in document["faces"]]
    except (KeyError, TypeError):
        return None


def _changed(source: Path) -> dict[str, int] | None:
    """When a picture was last written, and its size; None of one that is not there."""
    try:
        stat = source.stat()
    except OSError:
        return None
    return {"mtime_ns": stat.st_mtime_ns, "bytes": stat.st_size}


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
