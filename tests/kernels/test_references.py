"""The references of two small operations, against the same in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from specdec.errors import SpecdecError
from specdec.kernels.commit.native import NativeCommit, fits
from specdec.kernels.commit.reference import commit_paths
from specdec.kernels.filters.reference import filtered
from specdec.sampling import LogitsTransform, SamplingParams
from tests.kernels.variants import kernels

SETTINGS = [
    {}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_k": 4, "top_p": 0.6, "min_p": 0.1}, {"top_k": 1},
    {"top_k": 90}, {"top_p": 0.01}, {"min_p": 1.0},
]  # fmt: skip


def survivors(scores: list[float], top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> set[int]:
    """Tokens that a row keeps, by sorting it whole, in float64."""
    kept = {token for token, score in enumerate(scores) if score > -math.inf}
    if top_k:
        smallest = sorted(scores, reverse=True)[:top_k][-1]
        kept = {token for token in kept if scores[token] >= smallest}
    if top_p < 1:
        weights = {token: math.exp(scores[token] - max(scores)) for token in kept}
        nucleus, mass = set(), 0.0
        for token in sorted(kept, key=lambda token: (-scores[token], token)):
            if mass >= top_p * sum(weights.values()):
                break
            nucleus.add(token)
            mass += weights[token]
        kept = nucleus
    if min_p:
        kept = {token for token in kept if math.exp(scores[token] - max(scores)) >= min_p * (1 - 1e-6)}
    return kept


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_a_row_keeps_what_its_own_settings_keep(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(len(SETTINGS), 41, generator=generator)).to(torch.bfloat16)  # has ties
    logits[:, 7] = -math.inf
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    columns = [[row.get(name, value) for row in SETTINGS] for name, value in off.items()]
    found = filtered(logits, [temperature] * len(SETTINGS), *columns)  # type: ignore[arg-type]
    assert found.dtype == torch.float32
    for row, scores, settings in zip(found, logits.float() / temperature, SETTINGS, strict=True):
        kept = survivors(scores.double().tolist(), **settings)  # type: ignore[arg-type]
        assert set(row.isfinite().nonzero().flatten().tolist()) == kept, settings
        assert torch.equal(row[list(kept)], scores[list(kept)])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_scores_are_those_of_the_transform_to_the_bit(settings: dict[str, float]) -> None:
    logits = 3 * torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    transform = LogitsTransform(SamplingParams(temperature=0.7, **settings), [1], 50)  # type: ignore[arg-type]
    rows = {name + "s": [value] * 3 for name, value in settings.items()}
    assert torch.equal(filtered(logits, [0.7] * 3, **rows), transform.scores(logits, [(), (), ()]))  # type: ignore[arg-type]


def test_no_rows_have_no_scores() -> None:
    assert filtered(torch.empty(0, 5), [], [], [], []).shape == (0, 5)


def natively(caches: Sequence[Tensor], moves: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
    for sources, targets in moves:
        NativeCommit(kernels("native"), caches)(sources, targets)


@pytest.mark.parametrize("commit_paths", [commit_paths, natively])
@given(st.data())
def test_paths_move_as_if_entry_by_entry(commit_paths: Callable[..., None], data: st.DataObject) -> None:
    """Sequences of ten slots each, in any order; a path moves towards the root."""
    caches = [torch.randn(30, 2, 3), torch.randint(-128, 127, (3, 30), dtype=torch.int8).T, torch.randn(30),
              torch.randn(2, 30, 5).bfloat16().transpose(0, 1)]  # fmt: skip
    assert all(map(fits, caches))
    slots = data.draw(st.permutations(range(30)))
    wanted, moves = [cache.clone() for cache in caches], []
    for own in (slots[:10], slots[10:20], slots[20:]):
        rows = sorted(data.draw(st.sets(st.integers(0, 9))))
        moves.append(([own[row] for row in rows], [own[to] for to in range(len(rows))]))
        for source, target in zip(*moves[-1], strict=True):
            for cache in wanted:
                cache[target] = cache[source]
    commit_paths(caches, moves)
    assert all(torch.equal(cache, want) for cache, want in zip(caches, wanted, strict=True))


@pytest.mark.parametrize(("sources", "targets"), [([30], [0]), ([-1], [0]), ([1], [30]), ([1, 2], [0, -5])])
def test_a_slot_outside_of_the_cache_is_refused(sources: list[int], targets: list[int]) -> None:
    cache = torch.randn(30, 2)
    before = cache.clone()
    with pytest.raises(SpecdecError, match=r"slot to (read|write)"):
        natively([cache], [(sources, targets)])
    assert torch.equal(cache, before)


def test_what_has_gaps_is_not_for_the_kernel() -> None:
    assert not any(map(fits, [torch.randn(30, 4)[:, :2], torch.randn(30, 2, 3).transpose(1, 2), torch.randn(60)[::2]]))
