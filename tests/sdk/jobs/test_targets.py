from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_sdk.errors import OutputError
from dtir_sdk.jobs.pictures import ENDINGS
from dtir_sdk.jobs.targets import targets_of

OUT = Path("out")


def lists_of(*parts: str) -> st.SearchStrategy[list[Path]]:
    """Sources whose names are put together of few parts, so that they often collide."""
    stems = st.lists(st.sampled_from(parts), min_size=1).map("".join)
    suffixes = st.sampled_from(["", ".jpg", ".png"])
    names = st.builds(lambda stem, suffix: f"x{stem}{suffix}", stems, suffixes)
    return st.lists(st.builds(Path, st.sampled_from("ab"), names), unique=True, max_size=12)


def files(target: Path) -> list[str]:
    return [f"{target.name}{ending}".casefold() for ending in ENDINGS]


@given(lists_of("p", "P", "_safe", "-2", ".jpg"))
def test_no_two_have_a_file_in_common_and_no_sheet_is_named_as_a_safe_picture(found):
    targets = targets_of(dict.fromkeys(found, ENDINGS), OUT)
    assert list(targets) == found
    written = [file for target in targets.values() for file in files(target)]
    assert len(written) == len(set(written))
    for target in targets.values():
        assert target.parent == OUT
        _, safe, sheet = files(target)
        assert safe.endswith("_safe.png")
        assert sheet.endswith("_side_by_side.png")


@given(*[lists_of("p", "_safe", "-2", ".jpg")] * 2)
def test_each_keeps_the_target_that_holds_its_results(first, second):
    before = targets_of(dict.fromkeys(first, ENDINGS), OUT)
    holders = {target: source.resolve() for source, target in before.items()}
    # In the order in which the sources of a run come.
    both = sorted({*first, *second})
    targets = targets_of(dict.fromkeys(both, ENDINGS), OUT, holders.get)
    assert {source: targets[source] for source in first} == before


def test_results_of_another_source():
    with pytest.raises(OutputError, match=r"^out/p is taken by the results of .*b/p\.jpg: name"):
        targets_of({Path("a/p.jpg"): ENDINGS}, OUT, lambda _: Path("b/p.jpg").resolve())
