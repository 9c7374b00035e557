"""What is kept of a text is what the target saw, to half a step of int8, whenever and by whomever it was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specdec.models.transformers import TransformersModel
from specdec.training.batches import Batching, batch_of
from specdec.training.taps import ResidentTeacher, StoredTeacher, TapStore, watching
from tests.training import scenes

MODULE = scenes.target(1)
TEXTS = scenes.texts(MODULE, 6)
TAPS = (0, 2, 3)
BOUNDARIES = (*TAPS, 3)
LENGTHS = TEXTS.lengths.tolist()


class Watch:
    """Sees a text, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self._watch = watching(TransformersModel(scenes.target(1), "tiny"), BOUNDARIES)  # which changes the module

    def __call__(self, tokens: Sequence[int]) -> torch.Tensor:
        self.calls += 1
        return self._watch(tokens)


def store(folder: Path, most: int = 1 << 20, settings: str = "a") -> TapStore:
    return TapStore(folder, LENGTHS, len(BOUNDARIES), 32, most, settings)


def normalize(final: torch.Tensor) -> torch.Tensor:
    return (final @ MODULE.get_output_embeddings().weight.detach().T).logsumexp(-1)


def all_of(kept: TapStore, watch: Watch) -> list[torch.Tensor]:
    given = [kept.states(number, TEXTS[number].tolist(), watch, normalize) for number in range(len(TEXTS))]
    return [torch.cat([states.flatten(1), norms[:, None]], 1) for states, norms in given]


def within_half_a_step(found: torch.Tensor, exact: torch.Tensor) -> bool:
    step = exact.abs().amax(-1, keepdim=True) / 127
    return bool(((found - exact).abs() <= 0.5 * step + 1e-5).all())


def test_states_are_transformers_to_half_a_step(tmp_path: Path) -> None:
    for number, found in enumerate(all_of(store(tmp_path), Watch())):
        states = MODULE(TEXTS[number][None].long(), output_hidden_states=True).hidden_states
        for place, boundary in enumerate(BOUNDARIES):
            assert within_half_a_step(found[:, 32 * place : 32 * (place + 1)], states[boundary][0].detach())


def test_a_text_is_seen_once_and_kept_for_the_next_process(tmp_path: Path) -> None:
    watch, kept = Watch(), store(tmp_path)
    first = all_of(kept, watch)
    assert watch.calls == len(TEXTS)
    again = [*all_of(kept, watch), *all_of(store(tmp_path), watch)]
    assert watch.calls == len(TEXTS)
    assert all(torch.equal(a, b) for a, b in zip(again, first * 2, strict=True))


def test_what_was_half_written_or_is_not_kept_is_the_same(tmp_path: Path) -> None:
    watch = Watch()
    whole = all_of(store(tmp_path / "a"), watch)
    half = store(tmp_path / "b")
    all_of(half, watch)
    half._rows[:9] = 5  # the process ended before it was done
    half._done[:2] = False
    small = sum(LENGTHS[:3]) * (4 * 36 + 4)
    for kept in (half, store(tmp_path / "c", small), store(tmp_path / "d", 0)):
        assert all(torch.equal(a, b) for a, b in zip(all_of(kept, watch), whole, strict=True))
    assert sum((tmp_path / f"c/taps.{name}").stat().st_size for name in ("rows", "scales", "norms")) == small
    assert not (tmp_path / "d/taps.rows").exists()


def test_what_other_settings_left_is_not_read(tmp_path: Path) -> None:
    watch = Watch()
    all_of(store(tmp_path), watch)
    all_of(store(tmp_path, settings="b"), watch)
    assert watch.calls == 2 * len(TEXTS)


def test_a_teacher_sees_the_texts_of_a_batch(tmp_path: Path) -> None:
    batch = batch_of(TEXTS, [4, 0, 2], Batching(max_length=20))
    head = scenes.head(MODULE)
    stored = StoredTeacher(MODULE, TAPS, TapStore(tmp_path, [min(n, 20) for n in LENGTHS], 4, 32, 1 << 20, ""), Watch())
    found, exact = stored.see(batch), scenes.teacher(MODULE, head).see(batch)
    for row, length in enumerate(batch.lengths.tolist()):
        assert within_half_a_step(found.taps[row, :length], exact.taps[row, :length])
        assert within_half_a_step(found.final[row, :length], exact.final[row, :length])
        assert not found.taps[row, length:].any()
    answers = torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
    known = scenes.head(MODULE, [3, 5, 60])
    laws = [stored.law(seen, answers, known) for seen in (found, replace(found, normalizer=None))]
    assert torch.allclose(*laws, atol=1e-6)
    assert torch.allclose(laws[0], stored.law(exact, answers, known), atol=0.02)


@pytest.mark.parametrize("kept", [6, 3, 0])
def test_a_resident_teacher_sees_them_too_and_keeps_what_there_is_room_for(kept: int) -> None:
    lengths = [min(length, 20) for length in LENGTHS]
    head = scenes.head(MODULE)
    exact, runs, seen_before = scenes.teacher(MODULE, head), list[int](), set[int]()
    hook = MODULE.base_model.register_forward_hook(lambda *_: runs.append(1))
    resident = ResidentTeacher(MODULE, TAPS, lengths, sum(lengths[:kept]) * (4 * 36 + 4))
    for chosen in ([4, 0, 2], [1, 3, 5], [2, 4, 3], [0, 1, 2]):
        batch = batch_of(TEXTS, chosen, Batching(max_length=20))
        is_kept = seen_before >= set(chosen) and max(chosen) < kept
        runs.clear()
        found = resident.see(batch)
        seen_before.update(chosen)
        assert len(runs) == (not is_kept)
        seen = exact.see(batch)
        for row, length in enumerate(batch.lengths.tolist()):
            assert within_half_a_step(found.taps[row, :length], seen.taps[row, :length])
            assert within_half_a_step(found.final[row, :length], seen.final[row, :length])
            assert not found.taps[row, length:].any()
        places = torch.arange(batch.tokens.shape[1])
        answers = (places >= batch.starts[:, None]) & (places < batch.lengths[:, None])
        known = scenes.head(MODULE, [3, 5, 60])
        laws = [resident.law(one, answers, known) for one in (found, replace(found, normalizer=None))]
        assert torch.allclose(*laws, atol=1e-6)
        assert torch.allclose(laws[0], resident.law(seen, answers, known), atol=0.02)
    hook.remove()
