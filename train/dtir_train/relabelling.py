"""Another label for a system whose transfer generator is in use, and stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import tyro
from torch import Tensor

from dtir_sdk.bundle import default_folder
from dtir_sdk.errors import ConfigurationError
from dtir_train.arithmetic import best_device
from dtir_train.bundled_networks import is_bundle, load_networks, restore_batch_norm
from dtir_train.channel import jpeg_quality_of, send
from dtir_train.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    TrainedNetworks,
    TrainedRecognizer,
    load_recognizer,
    refuse_used,
    save_checkpoint,
    tensors_sha256,
)
from dtir_train.classifier import Batch, batches_of
from dtir_train.configuration import Configuration, Data, Recipe
from dtir_train.datasets import load_unlabelled, pictures_sha256
from dtir_train.distillation import with_teacher_hash
from dtir_train.evaluation.systems import open_system, paired_batches
from dtir_train.run_folder import held
from dtir_train.teaching import teach_recognizer
from dtir_train.unfinished import TRAINING_NAME, Unfinished, remove_unfinished

_TASK = "learning from photos"


def relabel(
    secret: tuple[str, ...],
    teacher: Path,
    *,
    run: tyro.conf.Positional[Path],
    system: Path | None = None,
    start_from: Literal["teacher", "system"] = "teacher",
    epochs: float = 10,
    jitter: float = 0.1,
    align: bool = True,
    flip: bool = True,
    jpeg_quality: int | None = None,
    jpeg_quality_to: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> None:
    """Give a system another label to read from the same cartoons, into a new folder.

    Stopped, the same command goes on.

    Its transfer and its restore generator stay as they are, whoever has them; only a recognizer is
    trained, for the cloud. It learns to make of a cartoon, after the channel that the system was
    trained with, what a recognizer of photos makes of the photo: photos without labels will do,
    the more the better. What comes out is exported (`dtir-export FOLDER`) and measured
    (`dtir-train evaluate table-2 FOLDER --recognizer TEACHER`) as a run of `dtir-train fit` is.
    A bundle does not say its channel, which is then to be named.

    A system that reads the teacher's labels already can be taught more of them, on more photos
    than it was trained on: `--start-from system`.

    Args:
        secret: sources of photos; labels are not read.
        teacher: a recognizer of photos, trained by `dtir-train fit-recognizer`.
        run: the folder; it must not hold a checkpoint or a run.
        system: folder of a full FP32 bundle or of a run, or a checkpoint; by default the bundle
            that comes with dtir.
        start_from: whose weights the recognizer starts with. `teacher`: it learns the features of
            that one and its answers. `system`: the system's own recognizer, which must read the
            teacher's labels and have its size, learns the answers alone.
        epochs: passes over the photos.
        jitter: largest random shift and zoom of the photos as a share of the side, and half of it
            as rotation in radians.
        align: find and cut out faces; off for pictures that are not faces.
        flip: mirror half of the photos, unless the system's run or the teacher's did not; off where
            left and right differ, as of letters.
        jpeg_quality: send cartoons through JPEG of this quality, 1 to 100; by default as the
            system's run did, and not at all for a bundle.
        jpeg_quality_to: with it, draw the quality of each step from `jpeg_quality` up to this.
        limit: use at most this many pictures of each source.
        seed: of batches and variation.

    Raises:
        BundleError: where the bundle is not whole.
        ConfigurationError: where the folder holds a checkpoint or a run, or an option, or the
            teacher, does not fit the system.
        DataError: where the data cannot be used.
        OutputError: where the folder cannot be written.
        TrainingError: where the weights are not finite any more.
    """
    refuse_used(run)
    taught = load_recognizer(teacher)
    path = default_folder() if system is None else system
    kept = load_networks(path)
    if isinstance(kept, TrainedRecognizer):
        raise ConfigurationError(
            f"{path}: a recognizer of photos alone: name a bundle, or a run of `dtir-train fit`"
        )
    sizes, own = kept.configuration.networks, taught.configuration.networks
    if sizes.image_size != own.image_size:
        raise ConfigurationError(
            f"teacher {teacher}: it reads {own.image_size}x{own.image_size} pixels, {path} draws "
            f"{sizes.image_size}x{sizes.image_size}: choose a teacher of the same picture size"
        )
    cut = taught.configuration.data.align
    if kept.configuration.data.align != cut:
        of_faces, of_pictures = ("teacher", "system") if cut else ("system", "teacher")
        raise ConfigurationError(
            f"{teacher} and {path}: the {of_faces} was trained on faces that were cut out, the "
            f"{of_pictures} on whole pictures: choose two of the same kind (a bundle that does not "
            "say what it takes is taken to be of faces: export it again)"
        )
    if start_from == "system":
        _refuse_another_recognizer(path, kept, teacher, taught)
    networks = replace(sizes, backbone=own.backbone, recognizer_width=own.recognizer_width)
    data = Data(
        secret,
        # No target pictures are used: the field is filled.
        secret,
        attribute=taught.configuration.data.attribute,
        labels=taught.configuration.data.labels,
        align=align and cut,
        # Neither was shown mirrored pictures where one was not.
        flip=flip and taught.configuration.data.flip and kept.configuration.data.flip,
        jitter=jitter,
        limit=limit,
    )
    if jpeg_quality is None and jpeg_quality_to is None:
        channel = kept.configuration.recipe
        jpeg_quality, jpeg_quality_to = channel.jpeg_quality, channel.jpeg_quality_to
    recipe = Recipe(epochs=epochs, jpeg_quality=jpeg_quality, jpeg_quality_to=jpeg_quality_to)
    # What the networks take: photos that are cut out already are still faces.
    kind = replace(data, align=cut)
    configuration = with_teacher_hash(
        Configuration(networks, kind, recipe, seed, start_from=str(path), teacher=str(teacher))
    )
    if is_bundle(path) and jpeg_quality is None:
        print(
            f"{path}: a bundle does not say what it was trained with: no JPEG without "
            "--jpeg-quality, mirrored photos without --no-flip"
        )
    photos = load_unlabelled(data, networks.image_size, "train")
    digest = tensors_sha256(kept.transfer.state_dict(), pictures_sha256(photos).encode())
    if start_from == "system":
        digest = tensors_sha256(kept.recognizer.state_dict(), digest.encode())
    unfinished = Unfinished(run / TRAINING_NAME, configuration, taught.labels, digest)
    batch, steps = batches_of(photos, data, epochs, seed, recipe.batch_size)
    with held(run), open_system(path) as opened:
        # Another process may have trained there while pictures were loaded.
        refuse_used(run)
        pairs = _sent(paired_batches(opened, batch), recipe, seed)
        if start_from == "system" and is_bundle(path):
            restore_batch_norm(kept.recognizer, pairs(0)[0])
        recognizer = teach_recognizer(
            taught.network.to(best_device()),
            networks,
            pairs,
            steps,
            _TASK,
            seed=seed,
            start_from=kept.recognizer if start_from == "system" else None,
            unfinished=unfinished,
        )
        trained = {"transfer": kept.transfer, "recognizer": recognizer, "restorer": kept.restorer}
        tensors = {name: network.state_dict() for name, network in trained.items()}
        checkpoint = Checkpoint(configuration, taught.labels, steps, tensors)
        save_checkpoint(checkpoint, run / CHECKPOINT_NAME)
        remove_unfinished(run)
    count = len(taught.labels)
    print(f"{run}: {count} labels of `{data.attribute}` read from the cartoons of {path}")


def _sent(pairs: Batch, recipe: Recipe, seed: int) -> Batch:
    """The cartoons of each batch as they arrive after the channel that the system was made for."""

    def arrived(step: int) -> tuple[Tensor, Tensor]:
        cartoons, photos = pairs(step)
        return send(cartoons, jpeg_quality=jpeg_quality_of(recipe, seed, step)), photos

    return arrived


def _refuse_another_recognizer(
    path: Path, system: TrainedNetworks, teacher: Path, taught: TrainedRecognizer
) -> None:
    if system.labels != taught.labels:
        raise ConfigurationError(
            f"{path}: it reads {len(system.labels)} labels ({', '.join(system.labels[:10])}), and "
            f"{teacher} reads {len(taught.labels)} ({', '.join(taught.labels[:10])}): start from "
            "the teacher"
        )
    sizes = [
        f"{own.backbone} of width {own.recognizer_width}"
        for own in (system.configuration.networks, taught.configuration.networks)
    ]
    if sizes[0] != sizes[1]:
        raise ConfigurationError(
            f"{path}: its recognizer is a {sizes[0]}, that of {teacher} a {sizes[1]}: start from "
            "the teacher"
        )
