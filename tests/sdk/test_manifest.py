from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtir_sdk.batches import DEFAULT_BATCHES
from dtir_sdk.errors import BundleError
from dtir_sdk.manifest import FORMAT_VERSION, Manifest

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def good_manifest() -> dict:
    return {
        "format_version": FORMAT_VERSION,
        "name": "tiny",
        "image_size": 32,
        "attribute": "gender",
        "labels": ["female", "male"],
        "role": "full",
        "files": {
            "transfer": {"file": "transfer.onnx", "sha256": "0" * 64, "precision": "fp32"},
            "recognizer": {"file": "recognizer.onnx", "sha256": "1" * 64, "precision": "int8"},
        },
        "metrics": {"accuracy": 0.97},
        "training_data": [{"name": "faces", "licence": "CC0", "pictures": 3}],
        "intended_use": "tests",
        "limits": ["none"],
        "created": "2025-01-02",
        "dtir_version": "0.1.0",
    }


def test_manifest_round_trip():
    manifest = Manifest.from_json(json.dumps(good_manifest()))
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_bundle_that_does_not_say_its_batches_has_the_default():
    assert Manifest.from_json(json.dumps(good_manifest())).batches == DEFAULT_BATCHES


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "leave out 1"),
        ([{"least": 2, "best": 4, "most": 8}], "leave out 1"),
        ([{"least": 1, "best": 4, "most": 2}], "1 <= least <= best <= most"),
        ([{"least": 1, "best": 1}], "'most' is missing"),
        ([{"least": 1, "best": 1, "most": 5000}], "from 1 to 4096"),
        ([1], "must hold objects"),
        ({}, "must be a list"),
    ],
)
def test_batches_that_do_not_fit(batches, words):
    with pytest.raises(BundleError, match=words):
        Manifest.from_json(json.dumps(good_manifest() | {"batches": batches}))


def test_newer_format_with_other_fields():
    with pytest.raises(BundleError, match="format version 9"):
        Manifest.from_json('{"format_version": 9}')


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"a": NaN}', "[" * 100_000, "9" * 10_000, b"\xff\xfe\xfa"]
)
def test_not_a_manifest(text):
    with pytest.raises(BundleError):
        Manifest.from_json(text)


def test_numbers_and_texts_that_cannot_be_written_again():
    text = json.dumps(good_manifest())
    for value in ("1e999", r'"\udcff"'):
        with pytest.raises(BundleError, match="not well-formed"):
            Manifest.from_json(text.replace("0.97", value))


@pytest.mark.parametrize("field", sorted(good_manifest()))
@pytest.mark.parametrize("value", [None, 1.5, True, [], {}, "", [1], {"a": 1}, -1])
def test_wrong_field(field, value):
    if (field, json.dumps(value)) in {
        ("metrics", "{}"),
        ("metrics", '{"a": 1}'),
        ("limits", "[]"),
        ("training_data", "[]"),
    }:
        pytest.skip("this value fits")
    with pytest.raises(BundleError, match=field):
        Manifest.from_json(json.dumps(good_manifest() | {field: value}))


@pytest.mark.parametrize("field", sorted(good_manifest()))
def test_missing_field(field):
    document = good_manifest()
    del document[field]
    with pytest.raises(BundleError, match=f"'{field}' is missing"):
        Manifest.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ["one"]},
        {"labels": ["one", "one"]},
        {"created": "yesterday"},
        {"role": "owner"},
        {"image_size": 10**9},
        {"files": {"generator": {}}},
    ],
)
def test_wrong_value(changes):
    with pytest.raises(BundleError, match=next(iter(changes))):
        Manifest.from_json(json.dumps(good_manifest() | changes))


@given(json_values)
@settings(max_examples=150, deadline=None)
def test_random_json(value):
    with pytest.raises(BundleError):
        Manifest.from_json(json.dumps(value))


@given(st.dictionaries(st.sampled_from(sorted(good_manifest())), json_values, min_size=1))
@settings(max_examples=300, deadline=None)
def test_random_fields(changes):
    try:
        manifest = Manifest.from_json(json.dumps(good_manifest() | changes))
    except BundleError:
        return
    assert isinstance(manifest, Manifest)


@given(st.binary(max_size=64))
def test_random_bytes(data):
    with pytest.raises(BundleError):
        Manifest.from_json(data)
