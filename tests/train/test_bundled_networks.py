"""Bundles that are trained on: an exported network is the network again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from dtir_export.graphs import export_graphs
from dtir_sdk.bundle_writing import write_bundle
from dtir_sdk.errors import BundleError, ConfigurationError
from dtir_sdk.manifest import MANIFEST
from dtir_train.building import build_generator, build_recognizer
from dtir_train.bundled_networks import load_bundled, restore_batch_norm
from dtir_train.checkpoint import TrainedNetworks, load_checkpoint, load_trained
from dtir_train.configuration import Configuration, Networks
from dtir_train.execution import Execution
from dtir_train.networks import initialise
from dtir_train.training import dry_run, fit, resume

LABELS = ("disc", "square")
MODELS = ("transfer", "recognizer", "restorer")
OFTEN = Execution(device="cpu", log_every=1, save_every=2, validate_every=100)


def trained(sizes: Networks) -> TrainedNetworks:
    """Networks as they are after training: no BatchNorm layer that does nothing."""
    torch.manual_seed(3)
    networks = [build_generator(sizes), build_recognizer(sizes, 2), build_generator(sizes)]
    for network in networks:
        initialise(network)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    nn.init.uniform_(tensor, 0.5, 2)
                for tensor in (module.bias, module.running_mean):
                    nn.init.uniform_(tensor, -0.5, 0.5)
        network.eval().requires_grad_(False)
    return TrainedNetworks(*networks, Configuration(networks=sizes), LABELS, 7)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a bundle of networks."""

    def write(networks: TrainedNetworks, role: str = "full", precision: str = "fp32") -> Path:
        held = MODELS if role == "full" else ("transfer",)
        graphs = export_graphs(networks, held, "fp32")
        return write_bundle(
            tmp_path_factory.mktemp("bundle") / "made",
            name="made",
            image_size=networks.configuration.networks.image_size,
            attribute="shape",
            labels=networks.labels,
            role=role,
            models={name: (data, precision) for name, data in graphs.items()},
            metrics={},
            training_data=[],
            intended_use="tests",
            limits=["knows nothing"],
            crop="whole",
        ).folder

    return write


@pytest.fixture(scope="module")
def bundle(small, exported) -> Path:
    """Of the sizes of `small`; do not change it."""
    return exported(trained(small().networks))


def pictures(count: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"backbone": "resnet34", "blocks": 3},
        {"backbone": "resnet50", "skip_connections": True},
        {"upsampling": "resize"},
        {"upsampling": "resize", "skip_connections": True},
        {"normalisation": "none"},
        {"normalisation": "none", "upsampling": "resize", "skip_connections": True},
    ],
)
def test_an_exported_network_is_the_network_again(small, exported, changes):
    networks = trained(replace(small().networks, **changes))
    loaded = load_bundled(exported(networks))
    expected = replace(networks.configuration.networks, discriminator_channels=64)
    assert loaded.configuration.networks == expected
    assert loaded.labels == LABELS
    for name in MODELS:
        made, wanted = getattr(loaded, name)(pictures()), getattr(networks, name)(pictures())
        assert torch.allclose(made, wanted, atol=1e-4), name


def test_batch_norm_works_again_and_changes_nothing(bundle):
    network = load_bundled(bundle).recognizer
    before = network(pictures(64))
    folded = network.train()(pictures(64))
    assert not torch.allclose(folded, before, atol=1e-2)
    network = load_bundled(bundle).recognizer
    restore_batch_norm(network, pictures(64))
    assert not network.training
    assert torch.allclose(network(pictures(64)), before, atol=1e-4)
    assert torch.allclose(network.train()(pictures(64)), before, atol=1e-3)


def test_a_run_starts_from_a_bundle(small, bundle, tmp_path, same):
    configuration = replace(small(steps=4, learning_rate=1e-9), start_from=str(bundle))
    assert any(
        "finite gradient" in line for line in dry_run(configuration, tmp_path / "run", OFTEN)
    )
    fit(configuration, tmp_path / "run", OFTEN)
    started, loaded = load_trained(tmp_path / "run"), load_bundled(bundle)
    for name in ("transfer", "restorer"):
        made, wanted = getattr(started, name)(pictures()), getattr(loaded, name)(pictures())
        assert torch.allclose(made, wanted, atol=1e-3), name
    # Its BatchNorm layers have gone on to average what they see.
    layer = started.recognizer.bn1
    assert not torch.allclose(layer.weight, torch.ones(()), atol=1e-2)
    fit(configuration, tmp_path / "again", OFTEN)
    resume(tmp_path / "again", OFTEN)
    same(tmp_path / "run", tmp_path / "again")


def test_wider_networks_start_from_a_bundle(small, bundle, tmp_path):
    wider = small(steps=1, learning_rate=1e-9)
    sizes = replace(wider.networks, channels=8, recognizer_width=16)
    fit(replace(wider, networks=sizes, start_from=str(bundle)), tmp_path / "wider", OFTEN)
    started, loaded = load_trained(tmp_path / "wider"), load_bundled(bundle)
    assert torch.allclose(started.transfer(pictures()), loaded.transfer(pictures()), atol=1e-3)


def test_a_bundle_that_reads_other_labels_gives_all_but_its_last_layer(small, bundle, tmp_path):
    other = small(steps=1, learning_rate=1e-9, data={"labels": ("round", "angular")})
    fit(replace(other, start_from=str(bundle)), tmp_path / "run", OFTEN)
    fit(other, tmp_path / "anew", OFTEN)
    run, anew = (load_checkpoint(tmp_path / name).tensors for name in ("run", "anew"))
    loaded = load_bundled(bundle)
    first = loaded.recognizer.conv1.weight
    assert torch.allclose(run["recognizer"]["conv1.weight"], first, atol=1e-6)
    assert torch.allclose(run["recognizer"]["fc.weight"], anew["recognizer"]["fc.weight"])
    # Its BatchNorm layers, which the export folded, are there again.
    assert not torch.allclose(run["recognizer"]["bn1.weight"], torch.ones(()), atol=1e-2)
    drawn = load_trained(tmp_path / "run").transfer(pictures())
    assert torch.allclose(drawn, loaded.transfer(pictures()), atol=1e-3)


def test_a_bundle_teaches(small, bundle, tmp_path):
    fit(replace(small(steps=2), teacher=str(bundle)), tmp_path / "run", OFTEN)
    noted = json.loads((tmp_path / "run" / "configuration.json").read_text())
    assert len(noted["distillation"]["teacher_sha256"]) == 64
    manifest = bundle / MANIFEST
    changed = manifest.read_text().replace('"made"', '"other"')
    before = manifest.read_text()
    manifest.write_text(changed)
    try:
        with pytest.raises(ConfigurationError, match="another one than this run began with"):
            resume(tmp_path / "run", OFTEN)
    finally:
        manifest.write_text(before)


@pytest.mark.parametrize(("role", "precision"), [("edge", "fp32"), ("full", "int8")])
def test_bundles_that_are_not_trained_on(small, exported, role, precision):
    folder = exported(trained(small().networks), role, precision)
    with pytest.raises(ConfigurationError, match=f"{role}' in {precision}: only a full one"):
        load_bundled(folder)


def test_graphs_of_another_maker(small, exported, tmp_path):
    folder = exported(trained(small().networks))
    renamed = onnx.load(folder / "transfer.onnx")
    for value in renamed.graph.initializer:
        value.name = f"other.{value.name}"
    for node in renamed.graph.node:
        node.input[:] = [
            f"other.{name}"
            if f"other.{name}" in {v.name for v in renamed.graph.initializer}
            else name
            for name in node.input
        ]
    (folder / "transfer.onnx").write_bytes(renamed.SerializeToString())
    with pytest.raises(BundleError, match="is not the file that the manifest describes"):
        load_bundled(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    digest = hashlib.sha256((folder / "transfer.onnx").read_bytes()).hexdigest()
    manifest["files"]["transfer"]["sha256"] = digest
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ConfigurationError, match="only a bundle that dtir-export made"):
        load_bundled(folder)
    configuration = replace(small(steps=1), start_from=str(folder))
    with pytest.raises(ConfigurationError, match="only a bundle that dtir-export made"):
        fit(configuration, tmp_path / "run", OFTEN)
