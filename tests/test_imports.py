"""The packages import in one direction only, and the SDK never imports torch."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dtir_sdk

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "dtir_sdk": ROOT / "sdk" / "dtir_sdk",
    "dtir_train": ROOT / "train" / "dtir_train",
    "dtir_export": ROOT / "export" / "dtir_export",
}
MAY_IMPORT = {
    "dtir_sdk": set(),
    "dtir_train": {"dtir_sdk"},
    "dtir_export": {"dtir_sdk", "dtir_train"},
}
# What each package is installed with; of the SDK, what makes films imports av.
EXTRAS = {"dtir_sdk": "video", "dtir_train": "train", "dtir_export": "export"}


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def python(code: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_one_direction(package):
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files
    for path in files:
        others = imported(path) & (set(PACKAGES) - {package})
        assert others <= MAY_IMPORT[package], path.name


def test_the_sdk_names_no_heavy_package():
    heavy = {"torch", "torchvision", "onnx", "matplotlib"}
    for path in PACKAGES["dtir_sdk"].rglob("*.py"):
        assert not imported(path) & heavy, path.name


def test_the_sdk_imports_without_torch():
    python(
        "import pkgutil, sys\n"
        "from importlib import import_module\n"
        "for name in ('torch', 'onnx', 'matplotlib', 'dtir_train', 'dtir_export'):\n"
        "    sys.modules[name] = None\n"
        "import dtir_sdk\n"
        "for module in pkgutil.walk_packages(dtir_sdk.__path__, 'dtir_sdk.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        import_module(module.name)\n"
        "for name in dtir_sdk.__all__:\n"
        "    getattr(dtir_sdk, name)\n"
    )


def test_importing_the_sdk_is_light():
    heavy = ("numpy", "cv2", "openvino", "onnxruntime", "rich", "tyro")
    code = f"import sys, dtir_sdk; print([n for n in {heavy!r} if n in sys.modules])"
    assert python(code) == "[]"


def test_a_pipeline_class_loads_no_engine():
    code = (
        "import sys; from dtir_sdk import Pipeline\n"
        "print([n for n in ('openvino', 'onnxruntime', 'rich', 'tyro') if n in sys.modules])"
    )
    assert python(code) == "[]"


def installed_with(extra: str) -> set[str]:
    """Names of the distributions that `pip install "dtir[extra]"` brings along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = [*project["dependencies"], *project["optional-dependencies"][extra]]
    waiting, found = [Requirement(text) for text in own], set()
    while waiting:
        wanted = waiting.pop()
        asked = (canonicalize_name(wanted.name), *sorted(wanted.extras))
        if asked in found:
            continue
        found.add(asked)
        try:
            inner = [Requirement(text) for text in requires(wanted.name) or ()]
        except PackageNotFoundError:
            # Not needed on this machine, or else its import fails.
            continue
        environments = [{"extra": one} for one in (wanted.extras or {""})]
        waiting += [
            each
            for each in inner
            if each.marker is None or any(map(each.marker.evaluate, environments))
        ]
    return {name for name, *_ in found}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_with_what_its_extra_brings(package):
    brought = installed_with(EXTRAS[package])
    absent = [
        module
        for module, distributions in packages_distributions().items()
        if module not in PACKAGES and brought.isdisjoint(map(canonicalize_name, distributions))
    ]
    assert "pytest" in absent
    python(
        "import pkgutil, sys\n"
        "from importlib import import_module\n"
        f"for name in {json.dumps(absent)}:\n"
        "    sys.modules[name] = None\n"
        f"import {package}\n"
        f"for module in pkgutil.walk_packages({package}.__path__, '{package}.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        import_module(module.name)\n"
    )


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Piepline'"):
        _ = dtir_sdk.Piepline
    assert "Pipeline" in dir(dtir_sdk)


def test_version_is_that_of_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert dtir_sdk.__version__ == project["version"]


@pytest.mark.parametrize("command", PACKAGES)
def test_every_command_says_its_version(command, capsys):
    """The exit code is what its main returns; `dtir-train` returns none where all went well."""
    main = importlib.import_module(f"{command}.cli").main
    assert not main(["--version"])
    assert capsys.readouterr().out == f"dtir {dtir_sdk.__version__}\n"
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "--version" in capsys.readouterr().out
