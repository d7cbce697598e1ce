"""What the distributions say of their licences, and that they hold what their own files need."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.licenses import canonicalize_license_expression

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "sdk" / "dtir_sdk" / "models"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_model_has_its_licence():
    project = PYPROJECT["project"]
    named = {(ROOT / file).resolve(strict=True) for file in project["license-files"]}
    assert ROOT / "LICENSE" in named
    for folder in (path for path in MODELS.iterdir() if path.is_dir()):
        # A bundle has nothing else in it: its licence lies beside it.
        beside = MODELS / f"LICENSE-{folder.name}"
        assert {folder / "LICENSE", beside} & named, folder.name


def test_the_expression_names_every_licence():
    expression = PYPROJECT["project"]["license"]
    assert canonicalize_license_expression(expression) == expression
    assert len(expression.split(" AND ")) == len(PYPROJECT["project"]["license-files"])


def test_dtir_ext_has_the_licence_of_the_code():
    assert (ROOT / "cpp_ext" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_source_distribution_leaves_nothing_out():
    """The tests need cpp_ext, and the README its pictures."""
    targets = PYPROJECT["tool"]["hatch"]["build"]["targets"]
    assert not targets.get("sdist", {}).get("exclude")
