"""RMSNorm and rotary embedding against float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.kernels.variants import ARCHITECTURES, UNIT, every_architecture, kernels

GUARD = 19


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def guarded(x: Tensor) -> tuple[Tensor, int]:
    """The numbers of `x` between others that are NaN, and the address of the first."""
    buffer = torch.full((x.numel() + 2 * GUARD,), math.nan)
    buffer[GUARD:-GUARD] = x.flatten()
    return buffer, buffer.data_ptr() + 4 * GUARD


def inside(buffer: Tensor, like: Tensor) -> Tensor:
    assert buffer[:GUARD].isnan().all()
    assert buffer[-GUARD:].isnan().all()
    return buffer[GUARD:-GUARD].view(like.shape)


@pytest.mark.parametrize("in_place", [False, True], ids=["", "in place"])
@pytest.mark.parametrize("magnitude", [1e-12, 1e-3, 1.0, 1e10])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 15, 16, 17, 33, 64, 576])
@every_architecture
def test_rms_norm_agrees_with_float64(architecture: str, size: int, magnitude: float, in_place: bool) -> None:
    """A sum of n squares, none below zero, is off by at most a factor of (n + 1)·u; the quotient and eps add two.

    The root halves that and rounds, as do the inverse and the two products: (n + 3) / 2 + 4 in all. One for eps, which
    is rounded to float32, and one for the second order.
    """
    x, weight, eps = magnitude * draw(5, size), draw(size, seed=1), 1e-5
    buffer, at = guarded(x)
    out, target = (buffer, at) if in_place else guarded(torch.full_like(x, math.nan))
    kernels(architecture).rms_norm(at, weight.data_ptr(), 5, size, eps, target)
    expected = x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    error = (inside(out, x).double() - expected).abs()
    assert (error <= ((size + 3) / 2 + 6) * UNIT * expected.abs() + 1e-43).all()


@every_architecture
def test_the_norm_of_zeros_is_zero(architecture: str) -> None:
    x, weight = torch.zeros(2, 20), torch.ones(20)  # with a name: a tensor without one is freed before the kernel runs
    kernels(architecture).rms_norm(x.data_ptr(), weight.data_ptr(), 2, 20, 1e-6, x.data_ptr())
    assert (x == 0).all()


@every_architecture
def test_a_rows_norm_has_the_same_bits_wherever_it_lies(architecture: str) -> None:
    x, weight = draw(1, 50), draw(50, seed=1)
    results = []
    for rows, place in [(1, 0), (4, 0), (4, 3)]:
        many = torch.full((rows, 50), math.nan)
        many[place] = x
        kernels(architecture).rms_norm(many.data_ptr(), weight.data_ptr(), rows, 50, 1e-6, many.data_ptr())
        results.append(many[place])
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("size", [2, 6, 8, 16, 30, 64, 128, 256])
@every_architecture
def test_rotation_agrees_with_float64(architecture: str, size: int) -> None:
    """Two products and a sum that each round once: at most 2·u·(|a cos| + |b sin|) to first order."""
    rows, heads = 4, 3
    x, angles = draw(rows, heads, size), 100 * draw(rows, size // 2, seed=1)
    cosine, sine = angles.cos(), angles.sin()
    buffer, at = guarded(x)
    kernels(architecture).rotate(at, cosine.data_ptr(), sine.data_ptr(), rows, heads, size)
    c, s = cosine.double()[:, None], sine.double()[:, None]
    a, b = x.double().chunk(2, -1)
    expected = torch.cat([a * c - b * s, b * c + a * s], -1)
    sizes = torch.cat([(a * c).abs() + (b * s).abs(), (b * c).abs() + (a * s).abs()], -1)
    assert ((inside(buffer, x).double() - expected).abs() <= 2.01 * UNIT * sizes).all()


@pytest.mark.slow
def test_rotation_has_the_same_bits_on_every_machine() -> None:
    x, angles = draw(4, 3, 40), 100 * draw(4, 20, seed=1)
    results = []
    for architecture in ARCHITECTURES:
        turned, cosine, sine = x.clone(), angles.cos(), angles.sin()
        kernels(architecture).rotate(turned.data_ptr(), cosine.data_ptr(), sine.data_ptr(), 4, 3, 40)
        results.append(turned)
    assert all(torch.equal(result, results[0]) for result in results)
