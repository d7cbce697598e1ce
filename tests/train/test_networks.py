from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dtir_train.building import build_generator
from dtir_train.configuration import PRESETS
from dtir_train.networks import Discriminator, Generator, Recognizer, ResidualBlock, initialise


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_paper(kind, *arguments) -> nn.Module:
    """A network with shapes and no weights."""
    with torch.device("meta"):
        return kind(*arguments)


def random_pictures(count: int, size: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_generator_is_the_papers():
    assert parameters(on_paper(Generator, 64, 9)) == 11_378_179


def test_the_generator_defaults_to_the_papers_size():
    assert parameters(on_paper(Generator)) == 11_378_179


@pytest.mark.parametrize(("size", "blocks"), [(32, 1), (36, 2), (64, 3)])
def test_a_generator_keeps_the_shape_and_stays_in_range(size, blocks):
    torch.manual_seed(0)
    # Pictures far out of range drive tanh to its ends.
    made = Generator(4, blocks)(random_pictures(2, size) * 50)
    assert made.shape == (2, 3, size, size)
    assert made.dtype == torch.float32
    assert made.abs().max() <= 1
    assert made.std() > 0.01


def test_a_generator_has_as_many_residual_blocks_as_asked():
    one, three = (parameters(on_paper(Generator, 8, blocks)) for blocks in (1, 3))
    assert three - one == 2 * parameters(on_paper(ResidualBlock, 32))


@pytest.mark.parametrize("upsampling", ["deconvolution", "resize"])
def test_either_way_of_upsampling_has_the_same_parameters(upsampling):
    torch.manual_seed(0)
    network = Generator(4, 1, upsampling)
    assert network(random_pictures(2, 36)).shape == (2, 3, 36, 36)
    assert parameters(network) == parameters(Generator(4, 1))
    deconvolves = any(isinstance(module, nn.ConvTranspose2d) for module in network.modules())
    assert deconvolves == (upsampling == "deconvolution")


def test_resizing_leaves_no_checkerboard():
    # Of an even picture, away from the rim; InstanceNorm would blow up differences of rounding.
    def made(upsampling) -> torch.Tensor:
        torch.manual_seed(0)
        layers = Generator(4, 1, upsampling).decoder[0]
        even = torch.ones(1, 16, 16, 16)
        for layer in layers:
            if not isinstance(layer, nn.InstanceNorm2d):
                even = layer(even)
        return even[..., 8:-8, 8:-8]

    assert made("resize").std(dim=(2, 3)).max() < 1e-5
    assert made("deconvolution").std(dim=(2, 3)).max() > 0.01


def with_skips(weight: float | None) -> Generator:
    """The same but for its skip connections, which are fresh where no weight is given."""
    torch.manual_seed(0)
    network = Generator(4, 1, skip_connections=True)
    initialise(network)
    for skip in network.skips:
        if weight is not None:
            nn.init.constant_(skip.weight, weight)
    return network


def test_fresh_skip_connections_change_nothing_and_are_trained_at_once():
    torch.manual_seed(0)
    plain, network = Generator(4, 1), with_skips(None)
    missing = network.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["skips.0.weight", "skips.1.weight"]
    pictures = random_pictures(2, 36)
    made = network(pictures)
    assert torch.equal(made, plain(pictures))
    made.square().mean().backward()
    for skip in network.skips:
        assert skip.weight.grad.abs().max() > 0


def test_skip_connections_let_detail_past_the_residual_blocks():
    pictures = random_pictures(1, 64)
    changed = pictures.clone()
    changed[..., 31, 31] *= -1
    # What is left of a changed pixel when the residual blocks see nothing of it.
    for weight, passes in ((None, False), (1.0, True)):
        network = with_skips(weight)
        nn.init.zeros_(network.encoder[2][0].weight)
        assert bool((network(pictures) != network(changed)).any()) == passes


def test_skip_connections_leave_the_edge_generator_under_its_budget():
    sizes = PRESETS["edge"].networks
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_generator(replace(sizes, skip_connections=True))(torch.empty(1, 3, 128, 128))
    assert 0.82e9 < counter.get_total_flops() / 2 < 0.9e9


def test_a_fresh_generator_without_norms_neither_swells_nor_fades():
    torch.manual_seed(0)
    network = Generator(8, 9, normalisation="none")
    assert network.state_dict().keys() == Generator(8, 9).state_dict().keys()
    initialise(network)
    made, halfway, end = network.with_features(random_pictures(4, 64))
    assert torch.equal(halfway, end)
    assert 0.1 < float(end.detach().std()) < 2
    assert 0.1 < float(made.detach().std()) < 0.9
    made.square().mean().backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_without_norms_a_generator_sees_how_light_a_picture_is():
    pictures = random_pictures(1, 64) * 0.2
    # InstanceNorm takes a shade out again, but for what the rim of zeros tells of it.
    for normalisation, sees in (("instance", False), ("none", True)):
        torch.manual_seed(0)
        network = Generator(8, 1, normalisation=normalisation)
        initialise(network)
        one, other = (network.encoder[0][:2](each) for each in (pictures, pictures + 0.5))
        apart = (one - other).mean(dim=(2, 3)).abs() / one.std(dim=(2, 3))
        assert bool(apart.max() > 0.5) == sees


@pytest.mark.parametrize(("blocks", "halfway"), [(1, 1), (2, 1), (9, 5)])
def test_a_generator_shows_its_features_halfway_and_at_the_end(blocks, halfway):
    torch.manual_seed(0)
    network, pictures = Generator(4, blocks).eval(), random_pictures(2, 32)
    made, middle, end = network.with_features(pictures)
    assert torch.equal(made, network(pictures))
    features = network.encoder(pictures)
    for number, block in enumerate(network.residual, start=1):
        features = block(features)
        if number == halfway:
            assert torch.equal(middle, features)
    assert torch.equal(end, features)
    assert end.shape == (2, 16, 8, 8)


def test_a_residual_block_adds_to_what_comes_in():
    block = ResidualBlock(3)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    features = random_pictures(2, 8)
    assert torch.equal(block(features), features)


@pytest.mark.parametrize("kind", [lambda: Generator(4, 1), lambda: Discriminator(4)])
def test_pictures_of_a_batch_do_not_touch_each_other(kind):
    # The one pass of the discriminator over both domains relies on it.
    torch.manual_seed(0)
    network, pictures = kind(), random_pictures(3, 32)
    alone = torch.cat([network(picture[None]) for picture in pictures])
    assert torch.allclose(network(pictures), alone, atol=1e-5)


@pytest.mark.parametrize(("size", "patches"), [(32, 2), (64, 6), (128, 14)])
def test_the_discriminator_scores_patches(size, patches):
    scores = Discriminator(4)(random_pictures(2, size))
    assert scores.shape == (2, 1, patches, patches)
    assert scores.dtype == torch.float32


def test_the_discriminator_has_no_sigmoid():
    network = Discriminator(4)
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
    nn.init.constant_(last.bias, 7.0)
    nn.init.zeros_(last.weight)
    assert torch.equal(network(random_pictures(1, 32)), torch.full((1, 1, 2, 2), 7.0))


# Counts of parameters and of state_dict's keys: torchvision's documentation and files.
@pytest.mark.parametrize(
    ("backbone", "count", "keys"),
    [
        ("resnet18", 11_689_512, 122),
        ("resnet34", 21_797_672, 218),
        ("resnet50", 25_557_032, 320),
    ],
)
def test_the_recognizer_is_torchvisions_resnet(backbone, count, keys):
    network = on_paper(Recognizer, 1000, backbone)
    assert parameters(network) == count
    assert len(network.state_dict()) == keys


@pytest.mark.parametrize(
    ("backbone", "name", "shape"),
    [
        ("resnet18", "conv1.weight", (64, 3, 7, 7)),
        ("resnet18", "bn1.num_batches_tracked", ()),
        ("resnet18", "layer1.0.conv1.weight", (64, 64, 3, 3)),
        ("resnet18", "layer2.0.downsample.0.weight", (128, 64, 1, 1)),
        ("resnet18", "layer2.0.downsample.1.running_mean", (128,)),
        ("resnet18", "layer4.1.bn2.bias", (512,)),
        ("resnet34", "layer3.5.conv2.weight", (256, 256, 3, 3)),
        ("resnet50", "layer1.0.downsample.0.weight", (256, 64, 1, 1)),
        ("resnet50", "layer1.0.conv3.weight", (256, 64, 1, 1)),
        ("resnet50", "layer4.2.bn3.running_var", (2048,)),
        ("resnet50", "fc.weight", (1000, 2048)),
        ("resnet50", "fc.bias", (1000,)),
    ],
)
def test_the_recognizers_parameters_have_torchvisions_names(backbone, name, shape):
    assert on_paper(Recognizer, 1000, backbone).state_dict()[name].shape == shape


def test_resnet50_strides_in_its_3x3_convolution():
    # As torchvision does, and not as the first paper: published weights expect it.
    modules = dict(on_paper(Recognizer, 2, "resnet50").named_modules())
    assert modules["layer2.0.conv1"].stride == (1, 1)
    assert modules["layer2.0.conv2"].stride == (2, 2)


def test_published_weights_load_but_for_the_head():
    published = Recognizer(1000, "resnet18", 8).state_dict()
    body = {name: value for name, value in published.items() if not name.startswith("fc.")}
    result = Recognizer(2, "resnet18", 8).load_state_dict(body, strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"]
    assert not result.unexpected_keys


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_the_recognizer_gives_logits(backbone):
    network = Recognizer(5, backbone, 4).eval()
    logits = network(random_pictures(3, 32))
    assert logits.shape == (3, 5)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize(("backbone", "widths"), [("resnet18", 1), ("resnet50", 4)])
def test_the_recognizer_shows_its_features_after_each_stage(backbone, widths):
    network = Recognizer(5, backbone, 4).eval()
    pictures = random_pictures(2, 64)
    logits, features = network.with_features(pictures)
    assert torch.equal(logits, network(pictures))
    sides = [(4 * widths * 2**stage, 16 // 2**stage) for stage in range(4)]
    assert [tuple(each.shape) for each in features] == [(2, c, side, side) for c, side in sides]
    assert torch.equal(logits, network.fc(features[-1].mean(dim=(2, 3))))


def test_fresh_generators_and_discriminators_have_cyclegans_weights():
    network = Generator(32, 2)
    torch.manual_seed(0)
    initialise(network)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_a_fresh_recognizer_has_hes_weights():
    network = Recognizer(2, "resnet18", 32)
    torch.manual_seed(0)
    initialise(network)
    weights = network.state_dict()["layer2.0.conv1.weight"]
    assert weights.shape == (64, 32, 3, 3)
    assert float(weights.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
