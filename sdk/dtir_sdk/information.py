"""`dtir info`: what is installed, which engine would be picked and why, the bundle's card."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

import dtir_sdk
from dtir_sdk.bundle import Bundle
from dtir_sdk.engines import choose, problems
from dtir_sdk.errors import BundleError, EngineError
from dtir_sdk.faces import CROPPED_BY

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
    versions = {"dtir": dtir_sdk.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def print_information(path: Path | None, console: Console) -> bool:
    """Prints what `dtir info` says.

    Args:
        path: the bundle's folder; None is the one that comes with dtir.
        console: where to.

    Returns:
        Whether everything needed to run was found to be in order.
    """
    console.print(f"Python {sys.version.split()[0]} on {platform.platform()}", highlight=False)
    for package, number in installed().items():
        console.print(f"  {package} {number}", highlight=False)
    console.print(f"  faces are cut out and set back by {CROPPED_BY}", highlight=False)
    return _print_engines(console) & _print_bundle(path, console)


def _print_engines(console: Console) -> bool:
    console.print("\n[bold]Engines[/bold], in the order in which they are tried")
    for name, problem in problems().items():
        console.print(f"  {name}: {problem or 'works'}", highlight=False, markup=False)
    if find_spec("openvino") is not None:
        from dtir_sdk.engines.openvino import capabilities

        console.print(f"  this CPU computes: {', '.join(capabilities())}", highlight=False)
    try:
        choice = choose()
    except EngineError as error:
        console.print(f"  none can be had: {error}", markup=False)
        return False
    picked = f"  picked: {choice.engine} on {choice.device} ({choice.reason})"
    console.print(picked, highlight=False, markup=False)
    return True


def _print_bundle(path: Path | None, console: Console) -> bool:
    console.print("\n[bold]Bundle[/bold]")
    try:
        bundle = Bundle.open(path)
        bundle.verify()
    except BundleError as error:
        console.print(f"  {error}", highlight=False, markup=False)
        return False
    manifest = bundle.manifest
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
    for name, text in {
        "name": manifest.name,
        "folder": str(bundle.folder),
        "role": manifest.role,
        "picture size": f"{manifest.image_size}x{manifest.image_size}",
        "recognises": f"{manifest.attribute}: {', '.join(manifest.labels)}",
        "graphs": "; ".join(
            f"{name}: {file.file}, {file.precision}" for name, file in manifest.files.items()
        ),
        "intended use": manifest.intended_use,
        "limits": "\n".join(manifest.limits),
        "training data": "\n".join(
            f"{data.name}: {data.pictures} pictures, {data.licence}"
            for data in manifest.training_data
        ),
        "metrics": json.dumps(manifest.metrics, indent=2, ensure_ascii=False),
        "created": f"{manifest.created} by dtir {manifest.dtir_version}",
    }.items():
        table.add_row(name, text)
    console.print(table, markup=False, highlight=False)
    return True
