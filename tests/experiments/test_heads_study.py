"""The study of trained heads: same answers for all, what is finished is not trained again, every figure is shown."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from experiments.reproduce import foreign, head_arms, heads
from experiments.reproduce.options import Options
from specdec.errors import ConfigError
from specdec.training.batches import Batching
from specdec.training.corpus import Answers, Exchange, read_chunk, write_chunk
from specdec.training.material import parted
from specdec.training.prompts import Mix, Template
from specdec.training.schedule import LoopConfig, Schedule
from specdec.training.settings import HeadOptions, Settings
from tests.training.chats import END, save_target, tokenizer

VOCABULARIES = (160, 200, 240, 259)
"""In place of four larger ones; the last is the whole."""


def exchanges(count: int, first: int) -> list[Exchange]:
    """Every third of them is drawn."""
    return [
        Exchange(("Why?", "x"), [1, 2], [*range(3, 6 + number % 40), END], number % 3 == 2, "task")
        for number in range(first, first + count)
    ]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers of the target, two chunks of them."""
    monkeypatch.setattr(foreign, "passages", lambda *given: [f"Number {n} is here. " * 12 for n in range(9)])
    folder = tmp_path / "own"
    for number in range(2):
        write_chunk(folder / f"{number:05d}.safetensors", exchanges(40, 40 * number))
    (folder / "corpus.json").write_text("{}")
    return folder


def chunks(folder: Path) -> list[list[Exchange]]:
    return [read_chunk(file) for file in sorted(folder.glob("*.safetensors"))]


def test_others_words_take_as_much_room_and_those_held_out_stay(own: Path, tmp_path: Path) -> None:
    there = tmp_path / "foreign"
    foreign.replaced(own, there, Template(tokenizer()), 2, ["python"], 0)
    before, after = (list(chain(*chunks(folder))) for folder in (own, there))
    assert [len(one.answer) for one in after] == [len(one.answer) for one in before]
    assert [one.drawn for one in after] == [one.drawn for one in before]
    held = [apart for _, apart in parted(before, 2)]
    assert [one == other for one, other in zip(before, after, strict=True)] == held
    assert sum(held) == 2
    for one, apart in zip(after, held, strict=True):
        assert apart or tokenizer().decode(one.prompt).startswith("<|user|>Continue this text: Number ")
        assert apart or tokenizer().decode(one.answer, skip_special_tokens=True) == one.turns[-1]
        assert one.answer[-1] == END


def test_a_copy_that_was_cut_off_ends_as_one_that_was_not(own: Path, tmp_path: Path) -> None:
    there = tmp_path / "foreign"
    foreign.replaced(own, there, Template(tokenizer()), 2, ["python"], 0)
    whole = chunks(there)
    (there / "00001.safetensors").unlink()
    foreign.replaced(own, there, Template(tokenizer()), 2, ["python"], 0)
    assert chunks(there) == whole


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        str(tmp_path_factory.mktemp("heads")), {"path": str(save_target(tmp_path_factory.mktemp("target")))},
        held_out=4, writer="batch", taps_gib=1.0,
        head=HeadOptions("block", block_size=4, draft_vocab_size=200, markov_rank=4),
        mix=Mix(tasks=1.0, passages=0.0, second_turns=0.0, packages=("python",)),
        answers=Answers(tokens=1500, chunk=64, max_tokens=24), batching=Batching(2, 4, 200),
        schedule=Schedule(steps=3), loop=LoopConfig(points=2, evaluations=1),
    )  # fmt: skip


@pytest.mark.slow
def test_every_arm_is_trained_once_on_the_same_answers(base: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "PASSAGES", 20)
    found = heads.study(base, VOCABULARIES)
    monkeypatch.setattr(heads, "Run", None)  # nothing is trained again
    assert heads.study(base, VOCABULARIES) == heads.study(base, VOCABULARIES, jobs=2) == found
    assert not list(base.folder.rglob(heads.TAPS))
    arms = found["arms"]
    assert list(arms) == list(head_arms.arms(VOCABULARIES))
    answers = [folder / "answers" for folder in sorted(base.folder.iterdir())]
    assert {folder.resolve().parent.name for folder in answers} == {"block", "block-others-answers"}
    assert len({one["tokens"] for name, one in arms.items() if name != head_arms.FOREIGN}) == 1
    covered = [arms[name]["coverage"] for name in head_arms.questions(VOCABULARIES)[2].published]
    assert covered == sorted(covered)
    assert covered[-1] == 1.0
    text = heads.table(found)
    for question in head_arms.questions(VOCABULARIES):
        assert f"### {question.title}" in text
        for name in question.published:
            assert f"| {name} | " in text
    with pytest.raises(ConfigError, match="trained with another loss, seed"):
        heads.study(replace(base, seed=1, loss=replace(base.loss, tv=0.5)), VOCABULARIES)


def test_arms_that_read_the_same_share_what_the_target_saw(tmp_path: Path) -> None:
    base, known = Settings(str(tmp_path)), head_arms.arms()
    seen = tmp_path / "block" / "taps.rows"
    seen.parent.mkdir()
    seen.write_bytes(b"states")
    for name, arm in known.items():
        own = replace(base, output=str(heads._folder(base, name)))
        heads._place_taps(own, base, arm)
        shared = own.folder.is_dir() and any(file.samefile(seen) for file in own.folder.iterdir())
        assert shared == (arm.architecture == "block" and not arm.foreign), name


def test_pairs_in_the_published_order_are_counted() -> None:
    one = {"hits": [0.5, 0.25], "alive": [0.5, 0.125], "tokens": 1000, "weights": 2_500_000, "coverage": 0.5}
    taus = {name: 2.0 - 0.1 * place for place, name in enumerate(head_arms.arms())}
    text = heads.table(
        {"vocabularies": head_arms.VOCABULARIES, "arms": {name: one | {"tau": tau} for name, tau in taus.items()}}
    )
    assert "| block | 2.50 M | 1,000 | 50.0% | 2.000 | 3.64 | 0.50 0.25 | 0.50 0.12 |" in text
    verdicts = [line for line in text.splitlines() if "pairs stand" in line]
    assert [line.split(" pairs")[0] for line in verdicts] == ["1 of 1", "1 of 1", "0 of 3", "0 of 1"]


def test_the_full_size_is_the_small_preset_and_a_quick_one_is_little() -> None:
    full, quick = (heads.settings(Options(quick=quick, data=Path("eval.jsonl"))) for quick in (False, True))
    assert full.head.draft_vocab_size == quick.head.draft_vocab_size == head_arms.VOCABULARIES[1]
    assert full.deny == quick.deny == ("eval.jsonl",)
    assert full.answers.tokens == 200_000 > 50 * quick.answers.tokens
