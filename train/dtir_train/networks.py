"""The four networks of the paper's Section 3.

Pictures are float tensors ``[N, 3, S, S]`` in ``[-1, 1]``, RGB.

Source: "Domain Transferred Image Recognition via Generative Adversarial Network",
Security and Communication Networks 2022, article 4466426. The generators follow Johnson et al.
(2016) as used by CycleGAN, the discriminator is a PatchGAN (Isola et al., 2017), and the
recognizer is a ResNet (He et al., 2016) whose parameters carry torchvision's names, so that its
published ImageNet weights load with ``load_state_dict``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Backbone = Literal["resnet18", "resnet34", "resnet50"]
Upsampling = Literal["deconvolution", "resize"]
Normalisation = Literal["instance", "none"]


class NoNorm(nn.Identity):
    """Stands where the paper's generators have an InstanceNorm, so that names stay the same."""


def _norm(channels: int, normalisation: Normalisation) -> nn.Module:
    return nn.InstanceNorm2d(channels) if normalisation == "instance" else NoNorm()


def _conv_norm_relu(
    inputs: int, outputs: int, kernel: int, stride: int, normalisation: Normalisation
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2),
        _norm(outputs, normalisation),
        nn.ReLU(inplace=True),
    )


def _doubled_norm_relu(
    inputs: int, outputs: int, upsampling: Upsampling, normalisation: Normalisation
) -> nn.Sequential:
    if upsampling == "resize":
        return nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            *_conv_norm_relu(inputs, outputs, 3, 1, normalisation),
        )
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1),
        _norm(outputs, normalisation),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """conv-IN-ReLU-conv-IN with an identity short cut; shape ``[N, C, H, W]`` is kept."""

    def __init__(self, channels: int, normalisation: Normalisation = "instance") -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1),
            _norm(channels, normalisation),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1),
            _norm(channels, normalisation),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Adds the residual of ``features``."""
        residual: Tensor = self.body(features)
        return features + residual


class Generator(nn.Module):
    """Picture to picture; the transfer and the restore generator share this structure.

    Three conv + InstanceNorm + ReLU (7x7, then twice 3x3 with stride 2), residual blocks, two
    deconvolutions and a 7x7 convolution with tanh. 11.378 M parameters at 64 channels, 9 blocks.

    Args:
        channels: width of the first layer; the residual blocks are four times as wide.
        blocks: number of residual blocks.
        upsampling: "deconvolution" is the paper's; "resize" repeats pixels and convolves (Odena et
            al., 2016), which leaves no checkerboard and computes four times as much there.
        skip_connections: adds what the first two layers see to what the decoder makes of the same
            size (as a U-Net, Ronneberger et al., 2015), through 1x1 convolutions. The paper has
            none: all detail has to pass the residual blocks, at a quarter of the side. At their
            fresh weights of 0 they change nothing.
        normalisation: "instance" is the paper's. It takes out of each layer how light and how rich
            in contrast the picture is; "none" leaves that in, and computes less.
    """

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 9,
        upsampling: Upsampling = "deconvolution",
        skip_connections: bool = False,
        normalisation: Normalisation = "instance",
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _conv_norm_relu(3, channels, 7, 1, normalisation),
            _conv_norm_relu(channels, channels * 2, 3, 2, normalisation),
            _conv_norm_relu(channels * 2, channels * 4, 3, 2, normalisation),
        )
        self.residual = nn.Sequential(
            *(ResidualBlock(channels * 4, normalisation) for _ in range(blocks))
        )
        self.decoder = nn.Sequential(
            _doubled_norm_relu(channels * 4, channels * 2, upsampling, normalisation),
            _doubled_norm_relu(channels * 2, channels, upsampling, normalisation),
            nn.Conv2d(channels, 3, 7, 1, 3),
        )
        widths = (channels * 2, channels) if skip_connections else ()
        self.skips = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for width in widths)

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps pictures ``[N, 3, S, S]`` in [-1, 1] to pictures of the same shape and range.

        ``S`` must be a multiple of 4.
        """
        return self.with_features(pictures)[0]

    def with_features(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Also returns what the residual blocks make of it, for distillation.

        Returns:
            Pictures as `forward`, and the features ``[N, 4 * channels, S/4, S/4]`` halfway (after
            the fifth of nine blocks) and after the last block.
        """
        details = []
        features = pictures
        for layer in self.encoder:
            features = layer(features)
            if self.skips:
                details.append(features)
        halfway = features
        for number, block in enumerate(self.residual, start=1):
            features = block(features)
            if number == (len(self.residual) + 1) // 2:
                halfway = features
        made = features
        for index, layer in enumerate(self.decoder):
            made = layer(made)
            if index < len(self.skips):
                made = made + self.skips[index](details[1 - index])
        return torch.tanh(made.float()), halfway, features


class Discriminator(nn.Module):
    """PatchGAN: tells target pictures from transferred ones, patch by patch.

    conv + ReLU, three conv + InstanceNorm + ReLU, conv. The output has no sigmoid, as the
    least-squares loss wants it.

    Args:
        channels: width of the first layer.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.ReLU(inplace=True)]
        for power, stride in ((1, 2), (2, 2), (3, 1)):
            layers += [
                nn.Conv2d(channels * 2 ** (power - 1), channels * 2**power, 4, stride, 1),
                nn.InstanceNorm2d(channels * 2**power),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Conv2d(channels * 8, 1, 4, 1, 1))
        self.body = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores patches of pictures ``[N, 3, S, S]``: ``[N, 1, S/8 - 2, S/8 - 2]``."""
        scores: Tensor = self.body(pictures)
        return scores.float()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a short cut (ResNet-18 and ResNet-34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, features: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, width, H/stride, W/stride]``."""
        out = self.relu(self.bn1(self.conv1(features)))
        out = self.bn2(self.conv2(out))
        shortcut = features if self.downsample is None else self.downsample(features)
        result: Tensor = self.relu(out + shortcut)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a short cut (ResNet-50)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(inputs, width * 4, stride)

    def forward(self, features: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, 4 * width, H/stride, W/stride]``."""
        out = self.relu(self.bn1(self.conv1(features)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = features if self.downsample is None else self.downsample(features)
        result: Tensor = self.relu(out + shortcut)
        return result


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


_BACKBONES: dict[Backbone, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class Recognizer(nn.Module):
    """ResNet with a new head: reads the photo's label from the transferred picture.

    At ``width=64`` every parameter but the head has torchvision's name and shape.

    Args:
        classes: number of labels.
        backbone: ResNet-18, -34 or -50.
        width: channels of the stem; 64 is the published network.
    """

    def __init__(self, classes: int, backbone: Backbone = "resnet50", width: int = 64) -> None:
        super().__init__()
        block, depths = _BACKBONES[backbone]
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = width
        for stage, depth in enumerate(depths):
            layers: list[nn.Module] = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(block(inputs, width * 2**stage, stride))
                inputs = width * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Returns logits float32 ``[N, classes]`` of pictures ``[N, 3, S, S]`` in [-1, 1]."""
        return self.with_features(pictures)[0]

    def with_features(self, pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Also returns what each of the four stages makes of it, for distillation.

        Returns:
            Logits as `forward`, and the features ``[N, C, S/4, S/4]`` after the first stage, each
            later one of half the side of the one before it and twice as wide.
        """
        made = self.maxpool(self.relu(self.bn1(self.conv1(pictures))))
        features = []
        for stage in (1, 2, 3, 4):
            made = self.get_submodule(f"layer{stage}")(made)
            features.append(made)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(made), 1))
        return logits.float(), tuple(features)


def initialise(network: nn.Module) -> None:
    """Draws fresh weights in place: N(0, 0.02) for generators and discriminators (CycleGAN), 0 for
    a generator's skip connections, He's fan-out rule for the recognizer (torchvision).

    Without norms a generator has He's fan-in rule, and 0 for the last convolution of each residual
    block (Fixup, Zhang et al., 2019): nothing else keeps its features from growing block by block.
    """
    plain = any(isinstance(module, NoNorm) for module in network.modules())
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if isinstance(network, Recognizer):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif plain:
                nn.init.kaiming_normal_(module.weight)
            else:
                nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if isinstance(network, Generator):
        for weight in network.skips.parameters():
            nn.init.zeros_(weight)
        if plain:
            for block in network.residual:
                nn.init.zeros_(block.get_submodule("body.3").get_parameter("weight"))
