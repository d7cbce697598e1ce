"""`dtir info`: what is installed, which engine would be picked and why, the bundle's card."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import dtir_sdk
from dtir_sdk.bundle import Bundle
from dtir_sdk.conditions import versions_of
from dtir_sdk.engines import choose, problems
from dtir_sdk.engines.openvino import capabilities, problem
from dtir_sdk.errors import BundleError, EngineError
from dtir_sdk.faces import CROPPED_BY
from dtir_sdk.graphs import checked_model, suited
from dtir_sdk.terminal import facts

_PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "openvino",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "dtir-ext",
    "av",
    "pygame-ce",
    "pyvirtualcam",
    "torch",
)


def installed() -> dict[str, str]:
    """Returns the versions of the installed packages that matter to dtir."""
    return {"dtir": dtir_sdk.__version__, **versions_of(_PACKAGES)}


def describe(path: Path | None) -> tuple[str, bool]:
    """Says what `dtir info` says.

    Args:
        path: the bundle's folder; None is the one that comes with dtir.

    Returns:
        The lines, and whether everything needed to run was found to be in order.
    """
    engines, engines_work = _engines()
    bundle, bundle_works = _bundle(path)
    lines = [
        f"Python {sys.version.split()[0]} on {platform.platform()}",
        *(f"  {package} {number}" for package, number in installed().items()),
        f"  faces are cut out and set back by {CROPPED_BY}",
        "",
        "Engines, in the order in which they are tried",
        *engines,
        "",
        "Bundle",
        bundle,
    ]
    return "\n".join(lines), engines_work and bundle_works


def _engines() -> tuple[list[str], bool]:
    lines = [f"  {name}: {why or 'works'}" for name, why in problems().items()]
    # Whatever engine runs the bundle, faces are found by OpenVINO.
    finds_faces = (lacking := problem("cpu")) is None
    if finds_faces:
        lines.append(f"  this CPU computes: {', '.join(capabilities())}")
    else:
        lines.append(f"  no faces can be found: {lacking}")
    try:
        choice = choose()
    except EngineError as error:
        return [*lines, f"  none can be had: {error}"], False
    picked = f"  picked: {choice.engine} on {choice.device} ({choice.reason})"
    return [*lines, picked], finds_faces


def _run_here(bundle: Bundle) -> str:
    try:
        files = suited(bundle, choose(), "auto").manifest.files
    except EngineError:
        return "none: no engine can be had"
    return ", ".join(file.file for file in files.values())


def _bundle(path: Path | None) -> tuple[str, bool]:
    try:
        bundle = Bundle.open(path)
        bundle.verify()
        for held in (bundle, bundle.in_int8()) if bundle.manifest.int8_files else (bundle,):
            for model in held.manifest.files:
                checked_model(held, model)
    except (BundleError, EngineError) as error:
        return f"  {error}", False
    manifest = bundle.manifest
    named = {
        "name": manifest.name,
        "folder": str(bundle.folder),
        "role": manifest.role,
        "picture size": f"{manifest.image_size}x{manifest.image_size}",
        "takes": "faces, cut out" if manifest.crop == "face" else "whole pictures",
        "recognises": f"{manifest.attribute}: {', '.join(manifest.labels)}",
        "graphs": "; ".join(
            f"{name}: {file.file}, {file.precision}"
            for files in (manifest.files, manifest.int8_files)
            for name, file in files.items()
        ),
        "run here": _run_here(bundle),
        "intended use": manifest.intended_use,
        "limits": "\n".join(manifest.limits),
        "training data": "\n".join(
            f"{data.name}: {data.pictures} pictures, {data.licence}"
            for data in manifest.training_data
        ),
        "metrics": json.dumps(manifest.metrics, indent=2, ensure_ascii=False),
        "created": f"{manifest.created} by dtir {manifest.dtir_version}",
    }
    return facts(named), True
