"""The explorer finds laws that are known."""

from __future__ import annotations

import pytest

from specdec.proof.explore import NeedsNoise, explore
from specdec.randomness import RandomSource, Stream


def test_thresholds_are_found_also_at_the_ends() -> None:
    law = explore(lambda random: random.uniform(Stream.ACCEPT, 0) < 0.9995)
    assert law[True] == pytest.approx(0.9995, abs=1e-6)


def test_several_thresholds_between_two_points_are_found() -> None:
    def run(random: RandomSource) -> int:
        return sum(random.uniform(Stream.DRAFT, 0) > border for border in (0.501, 0.502, 0.503, 0.9))

    law = explore(run)
    assert [law[i] for i in range(5)] == pytest.approx([0.501, 0.001, 0.001, 0.397, 0.1], abs=1e-6)


def test_a_number_asked_for_twice_is_the_same_number() -> None:
    def run(random: RandomSource) -> tuple[bool, bool]:
        return random.uniform(Stream.ACCEPT, 1) < 0.3, random.uniform(Stream.ACCEPT, 1) < 0.5

    assert explore(run) == pytest.approx({(True, True): 0.3, (False, True): 0.2, (False, False): 0.5}, abs=1e-6)


def test_numbers_of_different_names_are_independent() -> None:
    def run(random: RandomSource) -> tuple[bool, bool]:
        return random.uniform(Stream.ACCEPT, 1) < 0.3, random.uniform(Stream.ACCEPT, 1, lane=1) < 0.5

    want = {(True, True): 0.15, (True, False): 0.15, (False, True): 0.35, (False, False): 0.35}
    assert explore(run) == pytest.approx(want, abs=1e-6)


def test_questions_may_depend_on_answers() -> None:
    def run(random: RandomSource) -> str:
        if random.uniform(Stream.ACCEPT, 0) < 0.25:
            return "kept"
        return "low" if random.uniform(Stream.RESIDUAL, 0) < 0.125 else "high"

    assert explore(run) == pytest.approx({"kept": 0.25, "low": 0.75 / 8, "high": 0.75 * 7 / 8}, abs=1e-6)


def test_noise_vectors_are_refused() -> None:
    with pytest.raises(NeedsNoise):
        explore(lambda random: float(random.gumbel(0, 3)[0]))
