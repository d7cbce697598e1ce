from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_sdk.errors import ConfigurationError
from dtir_train.configuration import PRESETS, Configuration, Data, Networks, Recipe

numbers = st.integers(1, 512)
shares = st.floats(0, 0.5)
weights = st.floats(0, 1e6)
sources = st.lists(st.text(min_size=1), min_size=1, max_size=3).map(tuple)
configurations = st.builds(
    Configuration,
    st.builds(
        Networks,
        image_size=st.integers(8, 256).map(lambda number: number * 4),
        channels=numbers,
        blocks=numbers,
        discriminator_channels=numbers,
        backbone=st.sampled_from(["resnet18", "resnet34", "resnet50"]),
        recognizer_width=numbers,
    ),
    st.builds(
        Data,
        secret=sources,
        target=sources,
        attribute=st.text(),
        labels=st.none() | sources,
        align=st.booleans(),
        validation=shares,
        flip=st.booleans(),
        jitter=shares,
        colour_jitter=shares,
        random_backgrounds=st.floats(0, 1),
        limit=st.none() | numbers,
    ),
    st.builds(
        Recipe,
        epochs=st.floats(20, 100) | st.integers(20, 100),
        constant_epochs=st.floats(0, 20),
        settle_epochs=st.floats(0, 20),
        batch_size=numbers,
        learning_rate=st.floats(1e-9, 1),
        beta1=shares,
        adversarial_loss=st.sampled_from(["least-squares", "cross-entropy"]),
        adversarial_weight=weights,
        recognition_weight=weights,
        restoration_weight=weights,
        similarity_weight=weights,
        average=shares,
        round_to_bytes=st.booleans(),
        jpeg_quality=st.none() | st.integers(1, 100),
        precision=st.sampled_from(["bf16-mixed", "32-true"]),
    ),
    seed=st.integers(0, 2**63 - 1),
    start_from=st.none() | st.text(),
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def through_json(configuration: Configuration) -> Configuration:
    return Configuration.from_json(json.loads(json.dumps(configuration.to_json())), "run.json")


@given(configurations)
def test_a_configuration_comes_back_from_json(configuration):
    assert through_json(configuration) == configuration


@pytest.mark.parametrize("name", PRESETS)
def test_presets_come_back_from_json(name):
    assert through_json(PRESETS[name]) == PRESETS[name]


def test_the_paper_preset_is_the_papers_recipe():
    paper = PRESETS["paper"]
    sizes, recipe = paper.networks, paper.recipe
    assert (sizes.image_size, sizes.channels, sizes.blocks) == (256, 64, 9)
    assert (sizes.backbone, sizes.recognizer_width) == ("resnet50", 64)
    assert (recipe.epochs, recipe.constant_epochs, recipe.batch_size) == (200, 50, 4)
    assert (recipe.learning_rate, recipe.settle_epochs) == (1e-3, 0)


@given(documents)
def test_any_json_is_a_configuration_or_an_error_that_names_the_file(document):
    with pytest.raises(ConfigurationError, match=r"run\.json"):
        Configuration.from_json(document, "run.json")


@given(st.data())
def test_any_setting_is_read_or_refused(data):
    document = copy.deepcopy(PRESETS["tiny"].to_json())
    document = json.loads(json.dumps(document))
    place = document
    section = data.draw(st.sampled_from(["networks", "data", "recipe", None]))
    if section is not None:
        place = document[section]
    name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(documents)
    try:
        configuration = Configuration.from_json(document, "run.json")
    except ConfigurationError:
        return
    # What was read is sound enough to be written and read again.
    assert through_json(configuration) == configuration


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("networks", "image_size", "128"),
        ("networks", "image_size", 64.0),
        ("networks", "channels", True),
        ("networks", "backbone", "vgg"),
        ("data", "secret", "faces.zip"),
        ("data", "secret", [1]),
        ("data", "flip", "no"),
        ("recipe", "precision", "16"),
        ("recipe", "learning_rate", None),
    ],
)
def test_a_setting_of_another_type_is_refused(section, name, value):
    document = PRESETS["tiny"].to_json()
    document[section] = document[section] | {name: value}
    with pytest.raises(ConfigurationError, match=rf"run\.json.*{name} is "):
        Configuration.from_json(document, "run.json")


def test_a_start_of_another_type_is_refused():
    document = PRESETS["tiny"].to_json() | {"start_from": 3}
    with pytest.raises(ConfigurationError, match=r"run\.json.*start_from is 3"):
        Configuration.from_json(document, "run.json")


def test_a_configuration_from_before_the_newest_settings_is_read():
    document = PRESETS["tiny"].to_json()
    del document["start_from"], document["recipe"]["similarity_weight"]
    assert Configuration.from_json(document, "run.json") == PRESETS["tiny"]


def test_a_value_out_of_range_names_the_file():
    document = PRESETS["tiny"].to_json()
    document["recipe"] = document["recipe"] | {"epochs": 0}
    with pytest.raises(ConfigurationError, match=r"run\.json: .*epochs is 0"):
        Configuration.from_json(document, "run.json")


def test_a_newer_version_is_refused():
    with pytest.raises(ConfigurationError, match="version 2, this dtir reads version 1"):
        Configuration.from_json(PRESETS["tiny"].to_json() | {"version": 2}, "run.json")


def test_an_unknown_setting_is_refused():
    document = PRESETS["tiny"].to_json()
    document["data"]["sharpen"] = 1
    with pytest.raises(ConfigurationError, match=r"run\.json.*sharpen"):
        Configuration.from_json(document, "run.json")


@pytest.mark.parametrize("missing", ["version", "networks", "data", "recipe", "seed"])
def test_a_missing_part_is_refused(missing):
    document = PRESETS["tiny"].to_json()
    del document[missing]
    with pytest.raises(ConfigurationError, match=missing):
        Configuration.from_json(document, "run.json")


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Networks, "image_size", 28),
        (Networks, "image_size", 130),
        (Networks, "channels", 0),
        (Networks, "blocks", 0),
        (Networks, "discriminator_channels", -1),
        (Networks, "recognizer_width", 0),
        (Data, "validation", 0.6),
        (Data, "validation", float("nan")),
        (Data, "jitter", -0.1),
        (Data, "colour_jitter", 1.0),
        (Data, "random_backgrounds", 1.1),
        (Data, "limit", 0),
        (Recipe, "epochs", 0),
        (Recipe, "epochs", float("inf")),
        (Recipe, "constant_epochs", float("nan")),
        (Recipe, "settle_epochs", 41),
        (Recipe, "settle_epochs", -1),
        (Recipe, "batch_size", 0),
        (Recipe, "learning_rate", 0.0),
        (Recipe, "learning_rate", float("nan")),
        (Recipe, "beta1", 1.0),
        (Recipe, "average", 1.0),
        (Recipe, "jpeg_quality", 0),
        (Recipe, "jpeg_quality", 101),
        (Recipe, "jpeg_quality_to", 80),
    ],
)
def test_a_bad_value_is_refused_by_name(kind, name, value):
    with pytest.raises(ConfigurationError, match=name):
        replace(kind(), **{name: value})


@pytest.mark.parametrize("name", ["adversarial", "recognition", "restoration", "similarity"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_bad_weight_of_a_loss_is_refused(name, value):
    with pytest.raises(ConfigurationError, match="weights of the losses"):
        Recipe(**{f"{name}_weight": value})


@pytest.mark.parametrize("domain", ["secret", "target"])
def test_a_domain_without_sources_is_refused(domain):
    with pytest.raises(ConfigurationError, match="at least one source"):
        Data(**{domain: ()})


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ConfigurationError, match="seed"):
        Configuration(seed=seed)
