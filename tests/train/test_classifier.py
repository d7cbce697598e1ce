from __future__ import annotations

import math

import pytest
import torch
from lightning_fabric.accelerators import MPSAccelerator

from dtir_sdk.errors import TrainingError
from dtir_train.arithmetic import best_device
from dtir_train.classifier import predict, train_classifier
from dtir_train.configuration import PRESETS, Networks
from dtir_train.networks import Recognizer
from dtir_train.unfinished import Unfinished

# Not narrower: on CPUs with AVX2 alone oneDNN overruns memory in the backward pass of a 1x1
# convolution of stride 2 with fewer than 8 inputs.
SIZES = Networks(32, backbone="resnet18", recognizer_width=8)


def dark_or_bright(step: int, count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise that is darker for label 0 and brighter for label 1."""
    random = torch.Generator().manual_seed(step)
    labels = torch.arange(count) % 2
    shade = labels.float().view(-1, 1, 1, 1) - 0.5
    noise = torch.rand(count, 3, 32, 32, generator=random) - 0.5
    return (shade + noise).clamp(-1, 1), labels


def train(steps: int = 60, **options) -> Recognizer:
    return train_classifier(
        SIZES, 2, dark_or_bright, steps, "training", learning_rate=1e-2, **options
    )


def test_a_classifier_learns_what_is_there_to_learn():
    network = train(400)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(p.dtype == torch.float32 for p in network.parameters())
    pictures, labels = dark_or_bright(10_000, 64)
    assert (predict(network, pictures) == labels).float().mean() > 0.95


def test_the_same_seed_gives_the_same_classifier():
    one, same, other = train(4), train(4), train(4, seed=1)
    assert torch.equal(one.fc.weight, same.fc.weight)
    assert not torch.equal(one.fc.weight, other.fc.weight)


def test_all_is_trained_where_the_rest_is(monkeypatch):
    """Lightning would take an Apple GPU before the CPU, on which its pictures and teacher are."""
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    assert train(1).fc.weight.device.type == best_device().type


def test_weights_that_are_not_finite_are_no_classifier(tmp_path):
    def endless(network: Recognizer, pictures: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return network(pictures).sum() * math.inf

    kept = Unfinished(tmp_path / "kept", PRESETS["tiny"], ("a", "b"), "")
    with pytest.raises(TrainingError, match="training: the weights are not finite after 4 steps"):
        train(4, loss=endless, unfinished=kept)
    assert kept.load() is None


@pytest.mark.parametrize("count", [1, 64, 65, 130])
def test_a_prediction_for_every_picture(count):
    torch.manual_seed(0)
    network = Recognizer(3, "resnet18", 4).eval()
    pictures = torch.rand(count, 3, 32, 32) * 2 - 1
    read = predict(network, pictures)
    assert read.shape == (count,)
    assert read.dtype == torch.int64
    assert int(read[-1]) == int(network(pictures[-1:]).argmax())
