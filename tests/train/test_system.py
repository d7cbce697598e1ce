from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric

from dtir_sdk.errors import ConfigurationError
from dtir_train.datasets import Batch
from dtir_train.losses import gradient_penalty
from dtir_train.networks import Discriminator
from dtir_train.system import DEPLOYED, NETWORKS, System

LABELS = ("disc", "square")
RATE = 1e-3


def make(configuration) -> System:
    fabric = Fabric(accelerator="cpu", devices=1, precision=configuration.recipe.precision)
    return System(configuration, LABELS, fabric)


def batch(seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    photos, targets = torch.rand(2, 4, 3, 32, 32, generator=random) * 2 - 1
    return Batch(photos, torch.tensor([0, 1, 1, 0]), targets)


def tensors(system: System) -> dict[str, torch.Tensor]:
    return {
        f"{group}/{name}": tensor.clone()
        for group, members in system.state().tensors.items()
        for name, tensor in members.items()
    }


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The groups of which a weight changed."""
    names = [name for name in before if not torch.equal(before[name], after[name])]
    return {name.rpartition("/")[0] for name in names}


def test_a_step_trains_all_four_networks(small):
    system = make(small())
    before = tensors(system)
    metrics = system.train_step(batch(), RATE, settling=False)
    after = tensors(system)
    averages = {f"averaged/{name}" for name in DEPLOYED}
    assert changed(before, after) == {*NETWORKS, *averages}
    assert {name for name in after if name not in before}  # Adam's moments
    assert system.step == 1
    assert not system.parameters_without_gradient()
    assert 0 <= float(metrics.accuracy) <= float(metrics.labelled) == 1
    recipe = system.configuration.recipe
    total = (
        recipe.adversarial_weight * metrics.adversarial
        + recipe.recognition_weight * metrics.recognition
        + recipe.restoration_weight * metrics.restoration
        + recipe.coarse_weight * metrics.coarse
        + recipe.similarity_weight * metrics.dissimilarity
    )
    assert float(metrics.total) == pytest.approx(float(total), rel=1e-5)
    assert not metrics.total.requires_grad


def test_the_same_seed_gives_the_same_steps(small):
    one, other = make(small()), make(small())
    for system in (one, other):
        for step in range(2):
            system.train_step(batch(step), RATE, settling=False)
    assert not changed(tensors(one), tensors(other))


def test_another_seed_gives_other_weights(small):
    one, other = (make(replace(small(), seed=seed)) for seed in (0, 1))
    assert set(NETWORKS) <= changed(tensors(one), tensors(other))


def test_the_generators_loss_does_not_train_the_discriminator(small):
    # Whatever the generators are told to care about, its first step is its own.
    one, other = (make(small(adversarial_weight=weight)) for weight in (0.0, 5.0))
    for system in (one, other):
        system.train_step(batch(), RATE, settling=False)
    different = changed(tensors(one), tensors(other))
    assert "transfer" in different
    assert "discriminator" not in different
    assert "optimizer/discriminator" not in different


def test_the_adversarial_loss_trains_the_transfer_generator(small):
    system = make(small(recognition_weight=0.0, restoration_weight=0.0))
    before = tensors(system)
    system.train_step(batch(), RATE, settling=False)
    assert "transfer" in changed(before, tensors(system))


def test_while_settling_the_transfer_generator_stands_still_at_its_average(small):
    system = make(small())
    for step in range(3):
        system.train_step(batch(step), RATE, settling=False)
    before = tensors(system)
    metrics = system.train_step(batch(3), RATE, settling=True)
    after = tensors(system)
    for name, value in system.averaged("transfer").state_dict().items():
        assert torch.equal(after[f"transfer/{name}"], value)
        assert torch.equal(before[f"averaged/transfer/{name}"], value)
    assert float(metrics.discriminator) == float(metrics.adversarial) == 0
    moving = changed(before, after)
    assert {"recognizer", "restorer", "averaged/recognizer", "averaged/restorer"} <= moving
    assert "discriminator" not in moving
    assert "optimizer/transfer" not in moving


def test_averaged_weights_follow_slowly(small):
    system = make(small(average=0.1))
    system.train_step(batch(0), RATE, settling=False)
    first = tensors(system)
    system.train_step(batch(1), RATE, settling=False)
    second = tensors(system)
    name = "transfer/encoder.0.0.weight"
    # The first update takes the weights as they are.
    assert torch.equal(first[f"averaged/{name}"], first[name])
    expected = 0.1 * first[name] + 0.9 * second[name]
    assert torch.allclose(second[f"averaged/{name}"], expected, atol=1e-6)


def test_without_averaging_the_networks_stand_for_themselves(small):
    system = make(small(average=0.0))
    system.train_step(batch(), RATE, settling=False)
    assert not [group for group in system.state().tensors if group.startswith("averaged")]
    for name, value in system.averaged("recognizer").state_dict().items():
        assert torch.equal(system.state().tensors["recognizer"][name], value)


def test_looking_at_the_averages_does_not_disturb_training(small):
    watched, alone = make(small()), make(small())
    for step in range(2):
        for system in (watched, alone):
            system.train_step(batch(step), RATE, settling=False)
        network = watched.averaged("recognizer")
        assert not network.training
        torch.nn.init.zeros_(network.fc.weight)
    assert not changed(tensors(watched), tensors(alone))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("average", [0.9, 0.0])
def test_a_resumed_system_goes_on_exactly(small, precision, average):
    configuration = small(precision=precision, average=average)
    first = make(configuration)
    first.train_step(batch(0), RATE, settling=False)
    saved = copy.deepcopy(first.state())
    second = make(configuration)
    second.train_step(batch(9), RATE, settling=False)
    second.resume(saved)
    assert second.step == 1
    for system in (first, second):
        system.train_step(batch(1), RATE, settling=False)
        system.train_step(batch(2), RATE, settling=True)
    assert not changed(tensors(first), tensors(second))


def test_tensors_that_do_not_fit_are_refused(small):
    system = make(small())
    system.train_step(batch(), RATE, settling=False)
    state = system.state()
    for broken in ("restorer", "averaged/recognizer"):
        members = dict(state.tensors[broken])
        members.popitem()
        with pytest.raises(ConfigurationError, match="do not fit"):
            system.resume(replace(state, tensors={**state.tensors, broken: members}))
    group = "optimizer/transfer"
    of_too_many = {**state.tensors[group], "999.exp_avg": torch.zeros(1)}
    with pytest.raises(ConfigurationError, match="do not fit"):
        system.resume(replace(state, tensors={**state.tensors, group: of_too_many}))
    kept = {group: value for group, value in state.tensors.items() if group != "transfer"}
    with pytest.raises(ConfigurationError, match="do not fit"):
        system.resume(replace(state, tensors=kept))


def test_compressed_cartoons_are_what_the_cloud_learns_from(small):
    plain, jpeg = make(small()), make(small(jpeg_quality=20))
    losses = [float(s.train_step(batch(), RATE, settling=False).restoration) for s in (plain, jpeg)]
    assert losses[0] != losses[1]
    assert not jpeg.parameters_without_gradient()


def test_the_quality_of_jpeg_varies_from_step_to_step_and_the_same_way_again(small, monkeypatch):
    qualities = []

    def send(cartoons, _, jpeg_quality):
        qualities.append(jpeg_quality)
        return cartoons

    monkeypatch.setattr("dtir_train.system.send", send)
    for _ in range(2):
        system = make(small(jpeg_quality=50, jpeg_quality_to=95))
        for _ in range(4):
            system.train_step(batch(), RATE, settling=False)
    assert qualities[:4] == qualities[4:]
    assert len(set(qualities)) > 1
    assert all(50 <= quality <= 95 for quality in qualities)


RECIPES = {
    "hinge": {"adversarial_loss": "hinge"},
    "relativistic": {
        "adversarial_loss": "relativistic",
        "gradient_penalty": 1.0,
        "penalty_every": 2,
    },
    "augmented": {"augment_discriminator": True},
    "two rates": {"discriminator_learning_rate": 4 * RATE, "learning_rate": RATE},
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_a_system_of_any_recipe_learns_and_goes_on_exactly(small, changes):
    configuration = small(**changes)
    first, plain = make(configuration), make(small())
    first.train_step(batch(0), RATE, settling=False)
    assert not first.parameters_without_gradient()
    # It is another recipe than the usual.
    plain.train_step(batch(0), RATE, settling=False)
    assert "discriminator" in changed(tensors(plain), tensors(first))
    saved = copy.deepcopy(first.state())
    second = make(configuration)
    second.resume(saved)
    for system in (first, second):
        system.train_step(batch(1), RATE, settling=False)
        system.train_step(batch(2), RATE, settling=False)
        system.train_step(batch(3), RATE, settling=True)
    assert not changed(tensors(first), tensors(second))


def test_the_discriminator_has_a_rate_of_its_own_that_falls_with_the_others(small):
    own = make(small(learning_rate=1e-3, discriminator_learning_rate=4e-3))
    usual = make(small(learning_rate=1e-3))
    own.train_step(batch(), 0.5e-3, settling=False)
    usual.train_step(batch(), 2e-3, settling=False)
    # Half of the usual rate for one is half of the other's, 4e-3.
    assert "discriminator" not in changed(tensors(own), tensors(usual))
    assert "transfer" in changed(tensors(own), tensors(usual))


def test_the_gradient_penalty_makes_the_discriminator_less_steep(small):
    def slope(weight: float) -> float:
        system = make(small(gradient_penalty=weight, penalty_every=2))
        for step in range(20):
            system.train_step(batch(step), 2e-3, settling=False)
        discriminator = Discriminator(4)
        discriminator.load_state_dict(dict(system.state().tensors["discriminator"]))
        return float(gradient_penalty(discriminator, batch().targets).detach())

    assert slope(100.0) < 0.5 * slope(0.0)


def test_the_gradient_penalty_is_given_every_few_steps(small):
    often, seldom = (make(small(gradient_penalty=1.0, penalty_every=k)) for k in (1, 2))
    for system in (often, seldom):
        system.train_step(batch(0), RATE, settling=False)
    # The first step has it in both, and weighs twice as much where the next one has none.
    assert "discriminator" in changed(tensors(often), tensors(seldom))
    plain, penalised = (make(small(gradient_penalty=weight)) for weight in (0.0, 1.0))
    for step, due in enumerate((True, False)):
        metrics = [s.train_step(batch(step), 1e-12, settling=False) for s in (plain, penalised)]
        assert float(metrics[0].penalty) == 0
        assert (float(metrics[1].penalty) > 0) == due
        assert float(metrics[1].discriminator) == pytest.approx(
            float(metrics[0].discriminator), rel=1e-4
        )


def test_the_discriminator_alone_sees_varied_pictures(small):
    plain, augmented = (make(small(augment_discriminator=value)) for value in (False, True))
    metrics = [s.train_step(batch(), RATE, settling=False) for s in (plain, augmented)]
    assert float(metrics[0].discriminator) != float(metrics[1].discriminator)
    assert float(metrics[0].adversarial) != float(metrics[1].adversarial)
    assert float(metrics[0].restoration) == float(metrics[1].restoration)
    assert float(metrics[0].recognition) == float(metrics[1].recognition)


def test_skip_connections_are_trained(small):
    configuration = small()
    sizes = replace(configuration.networks, skip_connections=True)
    system = make(replace(configuration, networks=sizes))
    for _ in range(2):
        system.train_step(batch(), RATE, settling=False)
        assert not system.parameters_without_gradient()
    for name in ("transfer", "restorer"):
        assert system.averaged(name).skips[0].weight.abs().max() > 0


def test_generators_that_resize(small):
    configuration = small()
    sizes = replace(configuration.networks, upsampling="resize")
    system = make(replace(configuration, networks=sizes))
    metrics = system.train_step(batch(), RATE, settling=False)
    assert not system.parameters_without_gradient()
    other = make(configuration).train_step(batch(), RATE, settling=False)
    assert float(metrics.restoration) != float(other.restoration)
