"""Random numbers: known answers, purity, distinctness and uniformity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from specdec.errors import ConfigError
from specdec.randomness import RandomSource, Stream, _philox

# Random123's published known answers for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
TOP = 2**32 - 1


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def uniforms(source: RandomSource, stream: Stream, positions: range, anchor: int, lane: int) -> torch.Tensor:
    """`source.uniform` of many positions at once, float64."""
    counter = [np.array(positions, np.uint64), anchor, int(stream), lane]
    return torch.from_numpy((_philox(counter, (source.seed % 2**32, source.seed >> 32))[0] + 0.5) / 2**32)


def kolmogorov_smirnov(sample: np.ndarray) -> float:
    """Largest distance between the empirical distribution of `sample` and the uniform one, times sqrt(n)."""
    n = len(sample)
    ordered = np.sort(sample)
    above = np.arange(1, n + 1) / n - ordered
    below = ordered - np.arange(n) / n
    return float(max(above.max(), below.max()) * math.sqrt(n))


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_philox_known_answers(counter: str, key: str, answer: str) -> None:
    k0, k1 = words(key)
    assert list(_philox(words(counter), (k0, k1))) == words(answer)
    columns = np.array([words(counter)] * 3, np.uint64).T
    assert np.stack(_philox(columns, (k0, k1)), -1).tolist() == [words(answer)] * 3


def test_philox_is_vectorised_and_leaves_its_input_alone() -> None:
    counters = np.random.default_rng(0).integers(0, 2**32, (4, 15), dtype=np.uint64)
    before = counters.copy()
    blocks = np.stack(_philox(counters, (7, TOP)))
    assert blocks.shape == (4, 15)
    for i in range(15):
        assert blocks[:, i].tolist() == list(_philox(counters[:, i].tolist(), (7, TOP)))
    mixed = np.stack(_philox([5, counters[1], 9, counters[3]], (7, TOP)))
    assert mixed[:, 3].tolist() == list(_philox([5, int(counters[1, 3]), 9, int(counters[3, 3])], (7, TOP)))
    assert np.array_equal(counters, before)


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 + 12345, 2**64 - 1])
def test_uniform_is_the_first_word_of_the_documented_counter(seed: int) -> None:
    word = _philox([10, 9, int(Stream.RESIDUAL), 3], (seed % 2**32, seed >> 32))[0]
    assert RandomSource(seed).uniform(Stream.RESIDUAL, 10, anchor=9, lane=3) == (word + 0.5) / 2**32


def test_many_uniforms_at_once_are_those_of_the_source() -> None:
    """What the tests of their law look at."""
    source = RandomSource(2**64 - 3)
    for stream in Stream:
        together = uniforms(source, stream, range(7, 12), TOP, 2)
        assert together.tolist() == [source.uniform(stream, position, TOP, 2) for position in range(7, 12)]


def test_every_part_of_the_name_makes_another_number() -> None:
    seeds = [0, 1, 2**32, 2**33, 2**63]
    numbers = {
        RandomSource(seed).uniform(stream, position, anchor, lane)
        for seed in seeds
        for stream in Stream
        for position in range(4)
        for anchor in range(4)
        for lane in range(4)
    }
    # 1600 words: two of them would be equal by chance with probability 3e-4.
    assert len(numbers) == len(seeds) * len(Stream) * 4**3


@pytest.mark.parametrize("word", [0, TOP])
def test_uniform_never_reaches_its_ends(monkeypatch: pytest.MonkeyPatch, word: int) -> None:
    monkeypatch.setattr("specdec.randomness._philox", lambda counter, key: [word] * 4)
    assert 0.0 < RandomSource(0).uniform(Stream.DRAFT, 0) < 1.0


@pytest.mark.parametrize("stream", list(Stream), ids=lambda stream: stream.name)
def test_uniforms_are_uniform(stream: Stream) -> None:
    """Kolmogorov-Smirnov: uniform numbers exceed 2.23 with probability 2 exp(-2 * 2.23**2) = 1e-4."""
    numbers = uniforms(RandomSource(20240607), stream, range(20_000), 17, 0)
    assert kolmogorov_smirnov(numbers.numpy()) < 2.23


def test_streams_and_neighbours_are_uncorrelated() -> None:
    """36 correlations, normal with deviation 1 / sqrt(n): one exceeds 5 of them with probability 2e-5."""
    n = 20_000
    source = RandomSource(99)
    columns = [uniforms(source, stream, range(n), 17, 0) for stream in Stream]
    columns += [uniforms(source, Stream.DRAFT, range(n), 18, 0)]  # the same positions, drafted anew
    columns += [uniforms(source, Stream.DRAFT, range(n), 17, 1)]  # the other candidate
    columns += [uniforms(RandomSource(100), Stream.DRAFT, range(n), 17, 0)]
    columns += [uniforms(source, Stream.DRAFT, range(1, n + 1), 17, 0)]
    correlations = torch.corrcoef(torch.stack(columns)) - torch.eye(len(columns))
    assert correlations.abs().max() < 5 / math.sqrt(n)


def test_gumbel_is_defined_word_by_word() -> None:
    source = RandomSource(2**40 + 7)
    drawn = [word for lane in range(3) for word in _philox([21, 0, int(Stream.GUMBEL), lane], (7, 2**8))]
    u = (np.array(drawn[:10]) + 0.5) / 2**32
    noise = source.gumbel(21, 10)
    assert noise.dtype == torch.float64
    np.testing.assert_allclose(noise.numpy(), -np.log(-np.log(u)), rtol=1e-14)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 63, 1001])
def test_gumbel_of_a_token_does_not_depend_on_the_vocabulary(size: int) -> None:
    source = RandomSource(5)
    noise = source.gumbel(3, size)
    assert noise.shape == (size,)
    assert torch.equal(noise, source.gumbel(3, 4099)[:size])


def test_gumbel_depends_on_seed_and_position_and_is_the_callers_own() -> None:
    source = RandomSource(5)
    noise = source.gumbel(3, 8)
    assert not torch.equal(noise, source.gumbel(4, 8))
    assert not torch.equal(noise, RandomSource(6).gumbel(3, 8))
    first = noise.clone()
    noise.zero_()
    assert torch.equal(source.gumbel(3, 8), first)


def test_gumbel_follows_its_law() -> None:
    """exp(-exp(-g)) is uniform; Kolmogorov-Smirnov with error rate 1e-4."""
    noise = RandomSource(31).gumbel(1234, 49_152)
    assert bool(torch.isfinite(noise).all())
    assert kolmogorov_smirnov(torch.exp(-torch.exp(-noise)).numpy()) < 2.23


def test_gumbel_argmax_draws_from_the_distribution() -> None:
    """Pearson's chi-square on 4000 draws of 4 tokens; 21.1 is the 1e-4 quantile at 3 degrees of freedom."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    source = RandomSource(8)
    draws = torch.stack([(p.log() + source.gumbel(position, 4)).argmax() for position in range(4000)])
    expected = 4000 * p
    assert float(((torch.bincount(draws, minlength=4) - expected) ** 2 / expected).sum()) < 21.1


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ConfigError, match="seed"):
        RandomSource(seed)


@pytest.mark.parametrize("word", [-1, 2**32])
def test_counter_words_never_wrap(word: int) -> None:
    source = RandomSource(0)
    for name in ("position", "anchor", "lane"):
        with pytest.raises(ConfigError, match=str(word)):
            source.uniform(Stream.DRAFT, **{"position": 0, name: word})
    with pytest.raises(ConfigError, match=str(word)):
        source.gumbel(word, 4)
