"""A recognizer of photos, trained alone: to teach systems, and to compare them with."""

from __future__ import annotations

from pathlib import Path

import tyro

from dtir_train.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    refuse_used,
    save_checkpoint,
)
from dtir_train.classifier import predict
from dtir_train.configuration import (
    PRESETS,
    Configuration,
    Data,
    PresetName,
    Recipe,
    check_amount,
    check_seed,
)
from dtir_train.evaluation.arrays import as_tensor, bgr
from dtir_train.evaluation.celeba import ATTRIBUTES
from dtir_train.evaluation.identities import (
    IdentityTraining,
    load_people,
    train_on_photos,
)
from dtir_train.run_folder import held
from dtir_train.unfinished import remove_unfinished


def fit_recognizer(
    secret: tuple[str, ...],
    *,
    run: tyro.conf.Positional[Path],
    attribute: str = "identity",
    pretraining: tuple[str, ...] = ATTRIBUTES,
    pretraining_epochs: float = 20,
    epochs: float = 40,
    preset: PresetName = "edge",
    labels: tuple[str, ...] | None = None,
    align: bool = True,
    flip: bool = True,
    limit: int | None = None,
    validation: float = 0.05,
    seed: int = 0,
) -> None:
    """Train a recognizer on the photos themselves, into a new folder.

    Stopped, the same command goes on.

    A system may learn from it (`dtir-train fit --teacher FOLDER`) to read from cartoons what it
    reads from photos, and be compared with it (`dtir-train evaluate table-2 --recognizer FOLDER`).
    It is trained as the networks that read identities in Table 2: with more variation and a little
    less trust in labels than a system's own, since pictures of a person are few.

    Args:
        secret: sources of photos with labels.
        run: the folder; it must not hold a checkpoint or a run.
        attribute: column of the label; a folder a person needs none.
        pretraining: columns of 0 and 1 (or -1 and 1) that the network learns to read first; none
            leaves that out.
        pretraining_epochs: passes in learning them.
        epochs: passes in learning the label.
        preset: gives the size of the network and of the pictures.
        labels: names of the classes in the order of their values; by default the data's own.
        align: find and cut out faces; off for pictures that are not faces.
        flip: mirror half of the pictures; off where left and right differ, as of letters.
        limit: use at most this many pictures of each source and split.
        validation: share of the training split that is held out, to say at the end how well the
            recognizer reads it; 0 holds none out.
        seed: of weights, batches and variation.

    Raises:
        ConfigurationError: where the folder holds a checkpoint or a run, or an option does not fit.
        DataError: where the data cannot be used.
        OutputError: where the folder cannot be written.
        TrainingError: where the weights are not finite any more.
    """
    refuse_used(run)
    check_amount("epochs", epochs)
    check_seed(seed)
    training = IdentityTraining(
        secret, attribute, epochs, pretraining, pretraining_epochs=pretraining_epochs
    )
    networks = PRESETS[preset].networks
    pictures = load_people(
        Data(labels=labels, align=align, flip=flip, limit=limit, validation=validation),
        training,
        networks.image_size,
        "validation" if validation else None,
    )
    with held(run):
        # Another process may have trained there while pictures were loaded.
        refuse_used(run)
        network = train_on_photos(pictures, training, networks, seed, run)
        configuration = Configuration(networks, pictures.data, Recipe(epochs=epochs), seed)
        weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        labels, held_out = pictures.train.label_names, pictures.measured
        checkpoint = Checkpoint(configuration, labels, 0, {"recognizer": weights})
        save_checkpoint(checkpoint, run / CHECKPOINT_NAME)
        remove_unfinished(run)
    read = f"{run}: reads {len(labels)} labels from photos"
    if held_out is not None:
        right = predict(network, as_tensor(bgr(held_out))).numpy() == held_out.labels
        read += f", {right.mean():.2%} of {len(held_out)} that were held out"
    print(read)
