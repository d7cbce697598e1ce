from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
from peers import sdk_peer

from dtir_sdk.bundle import Bundle
from dtir_sdk.engines import openvino


@pytest.mark.parametrize(("preferred", "precision"), [(True, "int8"), (False, "fp32")])
def test_a_peer_says_which_graphs_of_a_bundle_ran(preferred, precision, monkeypatch):
    monkeypatch.setattr(openvino, "prefers_int8", lambda: preferred)
    bundle = Bundle.open()
    assert bundle.manifest.int8_files
    size = bundle.manifest.image_size
    with ExitStack() as stack:
        peer = sdk_peer(bundle, stack, precision="auto", name="default")
        cartoons, probabilities = peer.both(np.zeros((1, size, size, 3), np.uint8))
    assert peer.name.startswith("dtir, default, ")
    assert (peer.precision == "int8") == preferred
    assert peer.bundle.folder == bundle.folder
    assert peer.bundle.manifest.files["transfer"].precision == precision
    assert cartoons.shape == (1, size, size, 3)
    assert probabilities.sum() == pytest.approx(1)
