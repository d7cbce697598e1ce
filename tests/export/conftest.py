from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from dtir_export.cli import main
from dtir_export.graphs import export_graphs
from dtir_sdk.bundle_writing import write_bundle
from dtir_sdk.manifest import TrainingData
from dtir_train.building import build_generator, build_recognizer
from dtir_train.checkpoint import Checkpoint, TrainedNetworks, load_trained, save_checkpoint
from dtir_train.configuration import PRESETS, Configuration
from dtir_train.networks import initialise

LABELS = ("disc", "square", "none")


def tiny_configuration(**data: object) -> Configuration:
    preset = PRESETS["tiny"]
    return dataclasses.replace(
        preset,
        networks=dataclasses.replace(preset.networks, channels=4, blocks=1),
        data=dataclasses.replace(preset.data, **data),
    )


def write_checkpoint(path: Path, configuration: Configuration) -> Path:
    torch.manual_seed(0)
    sizes = configuration.networks
    networks = {
        "transfer": build_generator(sizes),
        "restorer": build_generator(sizes),
        "recognizer": build_recognizer(sizes, len(LABELS)),
    }
    for network in networks.values():
        initialise(network)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                # As after training: otherwise folding them proves nothing.
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            elif isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    # An untrained recognizer is undecided, and bf16 would then change labels.
    networks["recognizer"].fc.bias.data[1] = 3.0
    tensors = {f"averaged/{name}": network.state_dict() for name, network in networks.items()}
    save_checkpoint(Checkpoint(configuration, LABELS, 7, tensors), path)
    return path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    # Networks this small only wait for each other's threads, for minutes on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Path]:
    """Writes a checkpoint of tiny untrained networks; keywords change the configuration's data."""

    def make(path: Path, **data: object) -> Path:
        return write_checkpoint(path, tiny_configuration(**data))

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "shapes"
    return write_checkpoint(folder / "checkpoint.safetensors", tiny_configuration())


@pytest.fixture(scope="session")
def networks(checkpoint: Path) -> TrainedNetworks:
    return load_trained(checkpoint)


@pytest.fixture(scope="session")
def graphs(networks: TrainedNetworks) -> dict[str, bytes]:
    return export_graphs(networks, ("transfer", "recognizer", "restorer"))


@pytest.fixture(scope="session")
def half_graphs(networks: TrainedNetworks) -> dict[str, bytes]:
    return export_graphs(networks, ("transfer", "recognizer", "restorer"), "fp16")


@pytest.fixture(scope="session")
def bundle(graphs: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full bundle; do not change it."""
    folder = tmp_path_factory.mktemp("bundles") / "full"
    write_bundle(
        folder,
        name="shapes",
        image_size=32,
        attribute="shape",
        labels=LABELS,
        role="full",
        models={name: (data, "fp32") for name, data in graphs.items()},
        metrics={"accuracy": 0.5},
        training_data=[TrainingData("shapes", "none needed", 512)],
        intended_use="Tests.",
        limits=["Shapes only."],
    )
    return folder


def _perturbed(data: bytes) -> bytes:
    graph = onnx.load_from_string(data)
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(weight).copy()
    noise = np.random.default_rng(0).standard_normal(values.shape, np.float32)
    values *= (1 + 0.2 * noise).astype(values.dtype)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return graph.SerializeToString()


@pytest.fixture(scope="session")
def perturb() -> Callable[[bytes], bytes]:
    """Changes the largest weight of a graph."""
    return _perturbed


@pytest.fixture
def run_cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `dtir-export` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run
