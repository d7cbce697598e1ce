from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dtir_train.channel import from_bytes, send, to_bytes

pixels = st.floats(-1, 1, width=32)
pictures = arrays.arrays(np.float32, (2, 3, 4, 4), elements=pixels).map(torch.from_numpy)


def face(size: int = 32) -> torch.Tensor:
    """A smooth picture with an edge, [1, 3, S, S]."""
    across = torch.linspace(-0.9, 0.9, size).expand(1, 3, size, size).clone()
    across[:, 0, size // 3 : size // 2] = 0.8
    return across


@given(arrays.arrays(np.uint8, (2, 3, 4, 4)))
def test_bytes_come_back_as_they_were(values):
    stream = torch.from_numpy(values)
    assert torch.equal(to_bytes(from_bytes(stream)), stream)


def test_every_byte_comes_back():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(from_bytes(levels)), levels)
    assert from_bytes(levels)[[0, -1]].tolist() == [-1.0, 1.0]


@given(pictures)
def test_rounding_moves_a_pixel_by_half_a_level_at_most(sent):
    arrived = send(sent)
    assert (arrived - sent).abs().max() <= 0.5 / 127.5 + 1e-6
    assert torch.allclose(arrived, from_bytes(to_bytes(arrived)), atol=1e-6)


def test_what_is_out_of_range_is_clamped():
    assert to_bytes(torch.tensor([-3.0, 1.5])).tolist() == [0, 255]


@given(pictures, pictures)
def test_rounding_lets_the_gradient_pass_unchanged(sent, weights):
    sent = sent.clone().requires_grad_()
    (send(sent) * weights).sum().backward()
    assert torch.equal(sent.grad, weights)


def passed(quality: int, sent: torch.Tensor, weights: torch.Tensor) -> float:
    """How much of a gradient's length comes through JPEG."""
    sent = sent.clone().requires_grad_()
    (send(sent, True, quality) * weights).sum().backward()
    return float(sent.grad.norm() / weights.norm())


def test_the_gradient_knows_what_jpeg_takes_away():
    sent = face()
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    board = (1.0 - 2.0 * ((rows + columns) % 2)).expand(1, 3, 32, 32)
    # Red against green: JPEG keeps one value of it for four pixels.
    colour = board * torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)
    flat = torch.ones(1, 3, 32, 32)
    assert 0.0 < 3 * passed(75, sent, colour) < passed(75, sent, flat)


def test_the_gradient_is_finite_for_pictures_beyond_the_range():
    assert np.isfinite(passed(75, 1.2 * face(), torch.ones(1, 3, 32, 32)))


def test_rounding_can_be_left_out():
    sent = face()
    assert torch.equal(send(sent, round_to_bytes=False), sent)
    assert not torch.equal(send(sent), sent)


@pytest.mark.parametrize("round_to_bytes", [True, False])
def test_jpeg_is_opencvs_own(round_to_bytes):
    sent = face()
    rgb = to_bytes(sent)[0].permute(1, 2, 0).numpy()
    _, stream = cv2.imencode(
        ".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 80]
    )
    expected = cv2.imdecode(stream, cv2.IMREAD_COLOR)[..., ::-1]
    arrived = to_bytes(send(sent, round_to_bytes, 80))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(arrived, expected)
    assert not np.array_equal(arrived, rgb)


def test_a_lower_quality_loses_more():
    sent = face()
    low, high = (float((send(sent, True, q) - sent).abs().mean()) for q in (5, 95))
    assert low > 2 * high


def test_what_arrives_is_float32():
    assert send(face().to(torch.bfloat16)).dtype == torch.float32
