"""Runs the examples in the docstrings."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import pytest

import dtir_sdk

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(dtir_sdk.__path__, "dtir_sdk.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, bundle, portrait_path):
    module = import_module(name)
    names = {"bundle_folder": bundle.folder, "portrait": portrait_path}
    outcome = doctest.testmod(
        module,
        extraglobs=names,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert outcome.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(import_module(name)) if test.examples]
    assert len(found) >= 10
