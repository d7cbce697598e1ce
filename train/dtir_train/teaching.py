"""A recognizer of cartoons learns from one of photos, as the edge can let it, which sees both.

It starts as that one and learns to make of a cartoon what that one makes of the photo: the answers
(Hinton et al., 2015), on varied pictures for as long as it takes (Beyer et al., 2022), and the
features after each of its stages (FitNets, Romero et al., 2015). Those tell it, place by place,
where in a cartoon the photo is, which labels of whole pictures do not. No labels are needed.

One that reads the teacher's labels from cartoons already can learn on from where it is, on more
photos than it had labels for. It found features of its own then, which it keeps: only the answers
are taught.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dtir_train.classifier import Batch, train_classifier
from dtir_train.configuration import Networks
from dtir_train.losses import divergence, feature_difference
from dtir_train.networks import Recognizer
from dtir_train.unfinished import Unfinished

_LEARNING_RATE = 5e-4
# For one that reads cartoons already.
_GENTLE_LEARNING_RATE = 1e-4
_TEMPERATURE = 4.0


def teach_recognizer(
    teacher: Recognizer,
    networks: Networks,
    batch: Batch,
    steps: int,
    task: str,
    *,
    seed: int,
    start_from: Recognizer | None = None,
    unfinished: Unfinished | None = None,
) -> Recognizer:
    """Teaches a recognizer to read from cartoons what another one reads from the photos.

    Args:
        teacher: reads photos; where the recognizer is to be trained.
        networks: gives backbone and width, of the teacher too.
        batch: step to cartoons and the photos that they are of, both float32 [N, 3, S, S] in
            [-1, 1].
        steps: how many.
        task: what the progress bar says.
        seed: as for `train_classifier`.
        start_from: a network of the teacher's sizes and labels that reads cartoons, which is
            taught answers alone; None starts from the teacher, and teaches its features, too.
        unfinished: as for `train_classifier`.

    Returns:
        As `train_classifier`; so are the errors.
    """
    return train_classifier(
        networks,
        teacher.fc.out_features,
        batch,
        steps,
        task,
        seed=seed,
        learning_rate=_LEARNING_RATE if start_from is None else _GENTLE_LEARNING_RATE,
        loss=partial(_lesson_loss if start_from is None else _answers_loss, teacher),
        start_from=start_from or teacher,
        keep_last_layer=True,
        unfinished=unfinished,
    )


def _answers_loss(
    teacher: Recognizer, network: Recognizer, cartoons: Tensor, photos: Tensor
) -> Tensor:
    with torch.no_grad():
        answers = teacher(photos)
    return divergence(network(cartoons), answers, _TEMPERATURE)


def _lesson_loss(
    teacher: Recognizer, network: Recognizer, cartoons: Tensor, photos: Tensor
) -> Tensor:
    with torch.no_grad():
        answers, taught = teacher.with_features(photos)
    own_answers, own = network.with_features(cartoons)
    missed = [feature_difference(*each) for each in zip(own, taught, strict=True)]
    return divergence(own_answers, answers, _TEMPERATURE) + torch.stack(missed).sum()
