"""The networks of an exported bundle, to train on from or to learn from.

A bundle's graphs hold the networks' weights under the networks' own names. Two things were left
out of them by the export, since they change nothing that is computed: biases that an InstanceNorm
takes out again, which are 0 here; and the recognizer's BatchNorm layers, which were folded into
the convolutions before them, and here only add what is left of them. The discriminator is in no
bundle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from dtir_sdk.bundle import Bundle
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.manifest import MANIFEST, ModelName
from dtir_train.building import build_generator, build_recognizer
from dtir_train.checkpoint import Checkpoint, TrainedNetworks, TrainedRecognizer, load_either
from dtir_train.configuration import Configuration, Data, Networks
from dtir_train.networks import Backbone, Normalisation

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_PREFIX = "network."
_BACKBONES: Mapping[tuple[bool, int], Backbone] = {
    (False, 2): "resnet18",
    (False, 6): "resnet34",
    (True, 6): "resnet50",
}

_Weights = dict[str, Tensor]
_Network = TypeVar("_Network", bound=nn.Module)


def is_bundle(path: Path) -> bool:
    """Whether a folder is a bundle, and not a run."""
    return (path / MANIFEST).is_file()


def load_networks(path: Path) -> TrainedNetworks | TrainedRecognizer:
    """Loads the networks of a bundle, or what a run or a checkpoint holds.

    Raises:
        BundleError: as `load_bundled`.
        ConfigurationError: as `load_bundled` and `load_either`.
    """
    return load_bundled(path) if is_bundle(path) else load_either(path)


def bundled_checkpoint(path: Path) -> Checkpoint:
    """Loads a bundle's networks as a run at step 0, without a discriminator.

    Raises:
        BundleError: as `load_bundled`.
        ConfigurationError: as `load_bundled`.
    """
    loaded = load_bundled(path)
    networks = {
        "transfer": loaded.transfer,
        "recognizer": loaded.recognizer,
        "restorer": loaded.restorer,
    }
    tensors = {name: network.state_dict() for name, network in networks.items()}
    return Checkpoint(loaded.configuration, loaded.labels, 0, tensors)


def load_bundled(path: Path) -> TrainedNetworks:
    """Loads the networks of a bundle.

    Args:
        path: folder of a full bundle in FP32 that `dtir-export` made.

    Returns:
        The networks. They compute what the graphs do, in eval mode; see `restore_batch_norm` for
        training. Of the configuration the networks' sizes are the bundle's, but for the
        discriminator's, and whether faces are cut out; all else is the default.

    Raises:
        BundleError: the bundle is not whole.
        ConfigurationError: it is not a full one in FP32, or was not made by `dtir-export`.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    stored = {file.precision for file in manifest.files.values()}
    if len(manifest.files) < 3 or stored != {"fp32"}:
        raise ConfigurationError(
            f"{path} is a bundle of the role {manifest.role!r} in {', '.join(sorted(stored))}: "
            "only a full one in fp32 can be trained on"
        )
    graphs = [_graph(bundle, model) for model in ("transfer", "restorer", "recognizer")]
    transfer, restorer, recognizer = map(_weights, graphs)
    normalisation: Normalisation = "instance" if _has_norms(graphs[0]) else "none"
    try:
        sizes = _sizes(manifest.image_size, transfer, recognizer, normalisation)
        networks = TrainedNetworks(
            _loaded(build_generator(sizes), transfer),
            _loaded(build_recognizer(sizes, len(manifest.labels)), recognizer),
            _loaded(build_generator(sizes), restorer),
            Configuration(networks=sizes, data=Data(align=manifest.crop == "face")),
            manifest.labels,
            0,
        )
    except (LookupError, RuntimeError) as error:
        raise ConfigurationError(
            f"{path}: its graphs do not hold dtir's networks by their names: only a bundle that "
            "dtir-export made can be trained on"
        ) from error
    return networks


@torch.no_grad()
def restore_batch_norm(network: nn.Module, pictures: Tensor) -> None:
    """Gives BatchNorm layers that only add something their work back, in place.

    In eval mode the network computes the same as before. In training it does so too, as far as a
    batch is like the pictures: each layer takes out the mean and the variance that they have
    there, and puts them in again by its weight and bias, which are what is learned from then on.

    Args:
        network: with BatchNorm layers as `load_bundled` makes them.
        pictures: float32 [N, 3, S, S], such as the network is trained on.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    moments: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3), correction=0)
        moments[layer] = mean, variance

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    training = network.training
    network.eval()(pictures)
    network.train(training)
    for layer, hook in zip(layers, hooks, strict=True):
        hook.remove()
        mean, variance = moments[layer]
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        layer.weight.copy_((variance + layer.eps).sqrt())
        layer.bias.add_(mean)


def _graph(bundle: Bundle, model: ModelName) -> onnx.GraphProto:
    return onnx.load_model_from_string(bundle.model(model)).graph


def _has_norms(graph: onnx.GraphProto) -> bool:
    return any(node.op_type == "InstanceNormalization" for node in graph.node)


def _weights(graph: onnx.GraphProto) -> _Weights:
    """The weights and biases of a graph's layers, by the names of the network's parameters."""
    values = {value.name: value for value in graph.initializer}
    weights: _Weights = {}
    for node in graph.node:
        if node.op_type not in _LAYERS or node.input[1] not in values:
            continue
        name = node.input[1].removeprefix(_PREFIX).removesuffix(".weight")
        for kind, stored in zip(("weight", "bias"), node.input[1:], strict=False):
            weights[f"{name}.{kind}"] = torch.tensor(numpy_helper.to_array(values[stored]))
    return weights


def _sizes(
    image_size: int, generator: _Weights, recognizer: _Weights, normalisation: Normalisation
) -> Networks:
    resized = "decoder.0.1.weight" in generator
    depth = _count(recognizer, "layer3.{}.conv1.weight")
    return Networks(
        image_size=image_size,
        channels=len(generator["encoder.0.0.weight"]),
        blocks=_count(generator, "residual.{}.body.0.weight"),
        backbone=_BACKBONES["layer1.0.conv3.weight" in recognizer, depth],
        recognizer_width=len(recognizer["conv1.weight"]),
        upsampling="resize" if resized else "deconvolution",
        skip_connections="skips.0.weight" in generator,
        normalisation=normalisation,
    )


def _count(weights: _Weights, pattern: str) -> int:
    number = 0
    while pattern.format(number) in weights:
        number += 1
    return number


def _loaded(network: _Network, weights: _Weights) -> _Network:
    state = network.state_dict()
    modules = dict(network.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.BatchNorm2d):
            state[f"{name}.weight"] = torch.full_like(module.weight, math.sqrt(1 + module.eps))
            state[f"{name}.bias"] = weights.pop(f"{_convolution_before(name)}.bias")
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            state[f"{name}.weight"] = weights[f"{name}.weight"]
            if module.bias is not None:
                idle = torch.zeros_like(module.bias)
                state[f"{name}.bias"] = weights.get(f"{name}.bias", idle)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def _convolution_before(norm: str) -> str:
    """The name of the convolution that a BatchNorm layer of the recognizer follows."""
    if "downsample" in norm:
        return norm.removesuffix("1") + "0"
    return norm.replace("bn", "conv")
