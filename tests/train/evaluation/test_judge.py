from __future__ import annotations

import numpy as np
import pytest

from dtir_train.evaluation.arrays import bgr, subset
from dtir_train.evaluation.judge import TwoDomains, two_domains
from dtir_train.evaluation.subject import Subject, load_train
from dtir_train.evaluation.systems import open_system


@pytest.mark.parametrize("photos", [8, 27])
def test_a_judge_sees_as_many_cartoons_as_target_pictures(bundle, secret, target, photos):
    with open_system(bundle) as system:
        data = Subject((str(secret),), bundle, align=False).data(system, (str(target),))
        train = subset(load_train(data, system), np.arange(photos))
        domains = two_domains(system, data, train, system.transfer(bgr(train)))
    assert len(domains.train_pictures) == len(domains.train_targets) == photos


def test_cartoons_and_targets_are_changed_alike():
    """Else the change alone would tell them apart."""
    domains = TwoDomains(*(np.full((2, 4, 4, 3), shade, np.uint8) for shade in (10, 20, 30, 40)))
    changed = domains.changed(lambda pictures: pictures[:, ::2] + 1)
    sets = (
        changed.train_pictures,
        changed.train_targets,
        changed.test_pictures,
        changed.test_targets,
    )
    assert [one.shape for one in sets] == [(2, 2, 4, 3)] * 4
    assert [int(one.max()) for one in sets] == [11, 21, 31, 41]
