from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtir_sdk.errors import OutputError
from dtir_train.datasets import shards
from dtir_train.datasets.shards import Shards, missing_shards, read_shards, write_shards


def pictures(count: int) -> np.ndarray:
    """Pictures 2 by 2 of one shade, their number."""
    return np.arange(count, dtype=np.uint8).repeat(16).reshape(count, 2, 2, 4)


@st.composite
def cut(draw) -> tuple[np.ndarray, Shards]:
    """The same pictures as one array and in parts."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    whole = pictures(sum(lengths))
    return whole, Shards(np.split(whole, np.cumsum(lengths)[:-1]))


@given(cut(), st.data())
def test_they_are_indexed_as_one_array(both, data):
    whole, parts = both
    count = len(whole)
    assert parts.shape == whole.shape
    assert len(parts) == count
    place = st.integers(-count, count - 1)
    index = data.draw(
        place
        | st.slices(count)
        | st.lists(place).map(lambda chosen: np.array(chosen, np.int64))
        | st.sampled_from([..., (..., 0), (slice(None), 1), (0, ..., slice(None, None, -1))])
    )
    assert np.array_equal(parts[index], whole[index])
    assert parts[index].dtype == np.uint8


@given(cut())
def test_they_are_read_as_one_array(both):
    whole, parts = both
    assert np.array_equal(np.asarray(parts), whole)
    assert np.array_equal(np.stack([*parts]), whole)


def test_what_is_asked_for_is_the_callers_own():
    whole = pictures(4)
    parts = Shards([whole])
    for index in (0, slice(2), np.array([1]), ...):
        parts[index][:] = 9
    assert np.array_equal(whole, pictures(4))


def test_a_place_that_is_not_there_is_refused():
    with pytest.raises(IndexError):
        Shards([pictures(3)])[np.array([3])]


@settings(max_examples=10)
@given(st.integers(1, 20), st.integers(1, 5))
def test_processes_share_the_shards(tmp_path_factory, count, processes):
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", 3)
        whole = pictures(count)
        # Every seventh is left out.
        kept = [place for place in range(count) if place % 7]
        for rank in range(processes):
            mine = missing_shards(folder, count, rank, processes)
            made = (whole[p] if p % 7 else None for positions in mine for p in positions)
            write_shards(folder, mine, made)
            assert not missing_shards(folder, count, rank, processes)
        assert not missing_shards(folder, count, 0, 1)
        read, places = read_shards(folder, count, 2)
        assert places == kept
        assert (read is None) == (not kept)
        if read is not None:
            assert np.array_equal(np.asarray(read), whole[kept])


def test_a_full_disk_keeps_the_shards_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 2)
    save, calls = np.save, []

    def filling(path, array):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(path, array)

    monkeypatch.setattr(np, "save", filling)
    with pytest.raises(OutputError, match=r"no space left .*DTIR_CACHE"):
        write_shards(tmp_path, missing_shards(tmp_path, 6, 0, 1), iter(pictures(6)))
    assert [positions.start for positions in missing_shards(tmp_path, 6, 0, 1)] == [2, 4]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00000.json", "00000.npy"]
