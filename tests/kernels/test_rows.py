"""Decisions about one row: native code, on every instruction set that runs here, against plain torch."""

from __future__ import annotations

import math
from ctypes import byref, c_float, c_int64

import pytest
import torch
from torch import Tensor

from specdec.kernels import rows
from specdec.kernels.cpu import library as native
from specdec.kernels.rows import reference
from specdec.randomness import RandomSource
from tests.kernels.variants import ARCHITECTURES, every_architecture, kernels, marked, threads

pytestmark = pytest.mark.fewer(3)

SIZES = [1, 2, 7, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 4099, 49152]


def random_row(seed: int, size: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(size, generator=generator) * scale
    row[torch.rand(size, generator=generator) < 0.2] = -math.inf
    row[size // 2] = 0.5
    return row


@pytest.fixture(params=[pytest.param(name, marks=marked(name)) for name in ARCHITECTURES])
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: kernels(request.param))


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("size", SIZES)
def test_argmax_is_the_first_of_the_largest(size: int) -> None:
    for seed in range(5):
        row = random_row(seed, size)
        assert rows.argmax(row) == reference.argmax(row)
        row = row.round()  # many ties
        largest = float(row.max())
        assert rows.argmax(row) == (row.tolist().index(largest), largest)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("size", SIZES)
def test_logarithms_of_sums_are_those_of_double_precision(size: int) -> None:
    """Each of at most 49152 terms is right to 2 ulp, and those of a lane are added up 64 at a time: a sum is right to
    64 ulp at worst, 4e-6, and the logarithm to that and the rounding of a number below 64."""
    scores = torch.stack([random_row(seed, size, scale) for seed, scale in enumerate((0.1, 3.0, 10.0))])
    found = rows.log_sums_exp(scores)
    for number in (1, 2, 3):
        with threads(number):
            assert torch.equal(rows.log_sums_exp(scores), found)
    assert found.dtype == torch.float32
    assert (found.double() - scores.double().logsumexp(1)).abs().max() < 8e-6
    alone = [rows.log_sums_exp(scores[row : row + 1]) for row in range(3)]
    assert torch.equal(found, torch.cat(alone))  # no row depends on those beside it


@pytest.mark.usefixtures("_library")
def test_logarithms_of_sums_without_a_finite_largest() -> None:
    odd = torch.zeros(4, 33)
    odd[0] = -math.inf
    odd[1, 7] = math.inf
    odd[2, 32] = math.nan
    found = rows.log_sums_exp(odd)
    assert found[:2].tolist() == [-math.inf, math.inf]
    assert math.isnan(found[2])
    assert float(found[3]) == pytest.approx(math.log(33), abs=1e-6)
    assert rows.log_sums_exp(odd.T).shape == (33,)
    assert rows.log_sums_exp(odd[:0]).shape == (0,)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("size", SIZES)
def test_a_nan_counts_as_the_largest_wherever_it_is(size: int) -> None:
    for place in {0, size // 3, size - 1}:
        row = random_row(0, size)
        row[place] = math.nan
        assert math.isnan(rows.argmax(row)[1])


@pytest.mark.usefixtures("_library")
def test_rows_of_nothing_and_of_infinity() -> None:
    assert rows.argmax(torch.full((100,), -math.inf))[1] == -math.inf
    row = torch.zeros(100)
    row[7] = math.inf
    assert rows.argmax(row) == (7, math.inf)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("size", SIZES)
def test_the_gumbel_argmax_is_that_of_all_the_noise(size: int) -> None:
    for seed in range(20):
        row, random = random_row(seed, size, [0.0, 0.1, 3.0, 30.0][seed % 4]), RandomSource(seed * 2**40 + seed)
        noisy = row.double() + random.gumbel(seed * 1000, size)
        with threads(1 + seed % 3):
            assert rows.gumbel_argmax(row, random, seed * 1000) == int(noisy.argmax())


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_scores_are_divided_as_torch_does(size: int, number: int) -> None:
    scores = torch.stack([random_row(seed, size) for seed in range(3)])
    scores[1, 0] = -math.inf
    with threads(number):
        for by in (0.7, 0.8, 1e-3, 3.0):
            assert torch.equal(rows.divided(scores, by), scores / by)
            assert torch.equal(rows.divided(scores.T, by), scores.T / by)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_allowed_loses_its_mass_and_nothing_else_changes(size: int) -> None:
    """A NaN that is allowed stays one; rows that do not lie one behind the other are taken too."""
    draw = torch.Generator().manual_seed(size)
    scores = torch.stack([random_row(seed, size) for seed in range(3)])
    scores[1, 0] = math.nan
    for share in (0.0, 0.5, 1.0):
        mask = torch.rand(3, size, generator=draw) < share
        for layout in (scores.clone(), scores.T.contiguous().T):
            rows.forbid(layout, mask)
            assert torch.equal(layout[mask].isnan(), scores[mask].isnan())
            assert torch.equal(layout[mask].nan_to_num(7.0), scores[mask].nan_to_num(7.0))
            assert (layout[~mask] == -math.inf).all()


@every_architecture
def test_nothing_beyond_the_row_is_read(architecture: str) -> None:
    library = kernels(architecture)
    for size in (1, 17, 100):
        whole = torch.full((size + 64,), math.nan)
        whole[:size] = random_row(1, size)
        largest, at = c_float(), c_int64()
        library.argmax(whole.data_ptr(), size, byref(largest), byref(at))
        assert (at.value, largest.value) == reference.argmax(whole[:size])
        library.gumbel_argmax(whole.data_ptr(), size, 5, 6, 4, byref(at), 1)
        assert 0 <= at.value < size


@pytest.mark.parametrize("size", [size for size in SIZES if size < 40000])
@pytest.mark.parametrize("scores", ["all different", "ties", "few numbers", "nan"])
def test_the_largest_are_those_of_a_full_sort(size: int, scores: str) -> None:
    """Largest first, of equals the lowest id; a NaN is larger than any number."""
    several = torch.stack([random_row(seed, size) for seed in range(4)])
    if scores == "ties":
        several = several.round()
    elif scores == "few numbers":
        several[:, 3:] = -math.inf
    elif scores == "nan":
        several[1:, size // 3] = several[2:, size - 1] = several[3, :] = math.nan
    for count in (1, 8, 64):
        found = rows.largest(several, count)
        assert found.dtype == torch.int32
        assert found.tolist() == [by_hand(row, count) for row in several.tolist()]
        assert torch.equal(found, reference.largest(several, count))
        assert torch.equal(rows.largest(several.T.contiguous().T, count), found)
    assert rows.largest(several[:0], 8).shape == (0, min(size, 8))


def by_hand(row: list[float], count: int) -> list[int]:
    keys = [(0, 0.0) if math.isnan(score) else (1, -score) for score in row]
    return sorted(range(len(row)), key=lambda i: (keys[i], i))[:count]


def test_without_kernels_and_for_other_dtypes_torch_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    row = random_row(3, 100)
    wanted = rows.argmax(row), rows.gumbel_argmax(row, RandomSource(1), 2)
    monkeypatch.setattr(native, "library", lambda: None)
    assert (rows.argmax(row), rows.gumbel_argmax(row, RandomSource(1), 2)) == wanted
    assert rows.argmax(row.double()) == wanted[0]


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("size", SIZES)
def test_noise_of_drafts_is_that_of_the_target_to_1e_6(size: int) -> None:
    """Of all tokens, and of some: logarithms of float32 are within 2 ulp, and the largest noise is 22.9."""
    random = RandomSource(2**63 + size)
    for position in (0, 7, 4_000_000_000):
        exact = random.gumbel(position, size)
        assert float((rows.gumbel_noise(random, position, size) - exact).abs().max()) < 2e-6
        ids = torch.arange(size)[:: 1 + size // 37]
        some = rows.gumbel_noise(random, position, len(ids), ids)
        assert float((some - exact[ids]).abs().max()) < 2e-6
