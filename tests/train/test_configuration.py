from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_sdk.errors import ConfigurationError
from dtir_train.configuration import (
    PRESETS,
    Configuration,
    Data,
    Distillation,
    Networks,
    Recipe,
    check_seed,
)

numbers = st.integers(1, 512)
shares = st.floats(0, 0.5)
weights = st.floats(0, 1e6)
sources = st.lists(st.text(min_size=1), min_size=1, max_size=3).map(tuple)
names = st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=3, unique=True).map(
    tuple
)
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
        upsampling=st.sampled_from(["deconvolution", "resize"]),
        skip_connections=st.booleans(),
        normalisation=st.sampled_from(["instance", "none"]),
    ),
    st.builds(
        Data,
        secret=sources,
        target=sources,
        attribute=st.text(min_size=1).filter(str.strip),
        labels=st.none() | names,
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
        batch_size=st.integers(2, 512),
        learning_rate=st.floats(1e-9, 1),
        discriminator_learning_rate=st.none() | st.floats(1e-9, 1),
        beta1=shares,
        adversarial_loss=st.sampled_from(
            ["least-squares", "cross-entropy", "hinge", "relativistic"]
        ),
        gradient_penalty=weights,
        penalty_every=numbers,
        augment_discriminator=st.booleans(),
        adversarial_weight=weights,
        recognition_weight=weights,
        restoration_weight=weights,
        coarse_weight=weights,
        similarity_weight=weights,
        average=shares,
        round_to_bytes=st.booleans(),
        jpeg_quality=st.none() | st.integers(1, 100),
        precision=st.sampled_from(["auto", "bf16-mixed", "32-true"]),
    ),
    seed=st.integers(0, 2**63 - 1),
    start_from=st.none() | st.text(),
    teacher=st.text(),
    distillation=st.builds(
        Distillation,
        features_weight=weights,
        cartoons_weight=weights,
        answers_weight=weights,
        restoration_weight=weights,
        temperature=st.floats(1e-3, 1e3),
        teacher_sha256=st.none() | st.text(),
    ),
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


# `base` is a GPU's recipe, and `tiny` one for a minute: both have a gradient penalty.
@pytest.mark.parametrize("name", ["paper", "edge"])
def test_presets_take_no_recipe_that_the_paper_does_not_know(name):
    preset, usual = PRESETS[name], Recipe()
    for setting in (
        "gradient_penalty",
        "penalty_every",
        "augment_discriminator",
        "discriminator_learning_rate",
    ):
        assert getattr(preset.recipe, setting) == getattr(usual, setting)
    assert preset.recipe.adversarial_loss in ("least-squares", "cross-entropy")
    assert (preset.recipe.gradient_penalty, preset.teacher) == (0, None)
    assert preset.networks.upsampling == "deconvolution"
    assert not preset.networks.skip_connections


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
    section = data.draw(st.sampled_from(["networks", "data", "recipe", "distillation", None]))
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
        ("networks", "upsampling", "nearest"),
        ("recipe", "adversarial_loss", "wasserstein"),
        ("distillation", "temperature", "4"),
    ],
)
def test_a_setting_of_another_type_is_refused(section, name, value):
    document = PRESETS["tiny"].to_json()
    document[section] = document[section] | {name: value}
    with pytest.raises(ConfigurationError, match=rf"run\.json.*{name} is "):
        Configuration.from_json(document, "run.json")


@pytest.mark.parametrize("name", ["start_from", "teacher"])
def test_a_start_or_teacher_of_another_type_is_refused(name):
    document = PRESETS["tiny"].to_json() | {name: 3}
    with pytest.raises(ConfigurationError, match=rf"run\.json.*{name} is 3"):
        Configuration.from_json(document, "run.json")


def test_weights_without_a_teacher_are_refused():
    with pytest.raises(ConfigurationError, match="there is no teacher"):
        Configuration(distillation=Distillation(features_weight=2.0))


# As the bundled model's run wrote it.
BEFORE = {
    "networks": {
        "image_size": 128,
        "channels": 16,
        "blocks": 9,
        "discriminator_channels": 32,
        "backbone": "resnet18",
        "recognizer_width": 32,
    },
    "recipe": {
        "epochs": 15,
        "constant_epochs": 8,
        "settle_epochs": 1,
        "batch_size": 16,
        "learning_rate": 0.0002,
        "beta1": 0.5,
        "adversarial_loss": "least-squares",
        "adversarial_weight": 1.0,
        "recognition_weight": 1.0,
        "restoration_weight": 30.0,
        "similarity_weight": 10.0,
        "average": 0.999,
        "round_to_bytes": True,
        "jpeg_quality": None,
        "precision": "bf16-mixed",
    },
}


def test_a_configuration_from_before_the_newest_settings_is_read():
    document = {"version": 1, "data": PRESETS["edge"].to_json()["data"], "seed": 0, **BEFORE}
    edge = PRESETS["edge"]
    recipe = replace(edge.recipe, precision="bf16-mixed")
    assert Configuration.from_json(document, "run.json") == replace(edge, recipe=recipe)
    document = PRESETS["tiny"].to_json()
    del document["recipe"]["similarity_weight"]
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
        (Recipe, "discriminator_learning_rate", 0.0),
        (Recipe, "discriminator_learning_rate", float("nan")),
        (Recipe, "gradient_penalty", -1.0),
        (Recipe, "gradient_penalty", float("nan")),
        (Recipe, "penalty_every", 0),
        (Distillation, "temperature", 0.0),
        (Distillation, "temperature", float("inf")),
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
    with pytest.raises(ConfigurationError, match=rf"{name}_weight is .*: it must be 0 or more"):
        Recipe(**{f"{name}_weight": value})


@pytest.mark.parametrize("name", ["features", "cartoons", "answers", "restoration"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_bad_weight_of_the_distillation_is_refused(name, value):
    with pytest.raises(ConfigurationError, match=rf"{name}_weight is .*: it must be 0 or more"):
        Distillation(**{f"{name}_weight": value})


@pytest.mark.parametrize("domain", ["secret", "target"])
def test_a_domain_without_sources_is_refused(domain):
    with pytest.raises(ConfigurationError, match="at least one source"):
        Data(**{domain: ()})


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ConfigurationError, match="seed"):
        Configuration(seed=seed)


def test_a_batch_too_small_for_batch_normalisation_is_refused():
    with pytest.raises(ConfigurationError, match="take 2 pictures or more"):
        Configuration(Networks(image_size=32), recipe=Recipe(batch_size=1))
    Configuration(Networks(image_size=64), recipe=Recipe(batch_size=1))


@pytest.mark.parametrize("sources", [{"secret": ("",)}, {"target": ("cartoons", "")}])
def test_an_empty_name_is_not_the_folder_one_is_in(sources):
    with pytest.raises(ConfigurationError, match="a source has no name"):
        Data(**sources)


@pytest.mark.parametrize(
    "values",
    [{"labels": ("x", "x")}, {"labels": ("", "x")}, {"labels": ("x",)}, {"attribute": " "}],
)
def test_names_that_no_bundle_could_hold_are_refused(values):
    with pytest.raises(ConfigurationError, match=r"^(labels are|attribute is)"):
        Data(**values)


def test_a_number_that_seeds_is_called_by_its_own_name():
    with pytest.raises(ConfigurationError, match="key is -1: it must be from 0"):
        check_seed(-1, "key")
