"""The JSON beside a picture."""

from __future__ import annotations

import json
from pathlib import Path

from dtir_sdk.pipeline import Pipeline
from dtir_sdk.results import Result


def document_of(path: Path, pipeline: Pipeline, result: Result) -> bytes:
    """Says what was made of a picture, by which bundle and engine, as indented JSON in UTF-8."""
    manifest = pipeline.bundle.manifest
    document = {
        "source": str(path),
        "bundle": manifest.name,
        "attribute": manifest.attribute,
        "engine": str(pipeline.engine),
        **result.to_dict(),
    }
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode()
