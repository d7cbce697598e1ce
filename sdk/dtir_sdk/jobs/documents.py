"""The JSON beside a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dtir_sdk.pipeline import Pipeline
from dtir_sdk.results import Result


def origin_of(pipeline: Pipeline) -> dict[str, Any]:
    """Says what a result depends on beside the picture itself, in types that JSON knows."""
    return {
        "bundle": pipeline.bundle.manifest.name,
        "options": {"faces": pipeline.faces, "surround": pipeline.surround},
    }


def document_of(path: Path, pipeline: Pipeline, result: Result) -> bytes:
    """Says what was made of a picture, by which bundle and engine, as indented JSON in UTF-8."""
    document = {
        "source": str(path),
        **origin_of(pipeline),
        "attribute": pipeline.bundle.manifest.attribute,
        "engine": str(pipeline.engine),
        **result.to_dict(),
    }
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode()
