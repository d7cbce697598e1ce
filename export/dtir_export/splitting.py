"""A bundle's graphs, verified and copied into a bundle for one party. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dtir_export.naming import bundle_name
from dtir_sdk.batches import BatchRange
from dtir_sdk.bundle import Bundle
from dtir_sdk.bundle_writing import write_bundle
from dtir_sdk.errors import BundleError, ConfigurationError
from dtir_sdk.graphs import checked_model
from dtir_sdk.manifest import MAY_HOLD, FilePrecision, ModelName, Role


def split_bundle(
    source: Path,
    output: Path,
    role: Role,
    name: str | None = None,
    batches: Sequence[BatchRange] | None = None,
) -> Bundle:
    """Writes a bundle with what one party may hold of another bundle.

    Args:
        source: the bundle's folder.
        output: folder of the new bundle; a bundle there is replaced.
        role: whose bundle it becomes.
        name: the new bundle's name; None keeps the old one.
        batches: that its engines are built for; None keeps the old ones.

    Returns:
        The new bundle.

    Raises:
        BundleError: the source is damaged, holds a graph in another's place, or does not hold
            what the role needs.
        ConfigurationError: the new bundle would replace the source, or lie inside of it, or the
            name is none.
        OutputError: the new bundle cannot be written.
    """
    bundle = Bundle.open(source)
    manifest = bundle.manifest
    name = bundle_name(name, manifest.name)
    if output.resolve().is_relative_to(source.resolve()):
        raise ConfigurationError(
            f"{output} lies in the bundle that is to be split: name another folder with --output"
        )
    missing = sorted(MAY_HOLD[role] - set(manifest.files))
    if missing:
        raise BundleError(
            f"{source} is a bundle of the role {manifest.role!r} without a {missing[0]}: a bundle "
            f"of the role {role!r} cannot be made from it"
        )
    models: dict[ModelName, tuple[bytes, FilePrecision]] = {
        model: (checked_model(bundle, model), file.precision)
        for model, file in manifest.files.items()
        if model in MAY_HOLD[role]
    }
    in_int8 = bundle.in_int8() if manifest.int8_files else None
    return write_bundle(
        output,
        name=name,
        image_size=manifest.image_size,
        attribute=manifest.attribute,
        labels=manifest.labels,
        role=role,
        models=models,
        metrics=manifest.metrics,
        training_data=manifest.training_data,
        intended_use=manifest.intended_use,
        limits=manifest.limits,
        batches=manifest.batches if batches is None else batches,
        crop=manifest.crop,
        int8_models={model: checked_model(in_int8, model) for model in models} if in_int8 else None,
    )
