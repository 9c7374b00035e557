"""`specdec store build` and `specdec store show`: what goes in comes out, and what cannot be is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from specdec import SamplingParams, SpeculativeGenerator, cli
from specdec.stores import Store, Vocabulary, read, write

pytestmark = pytest.mark.xdist_group("real model")
TEXTS = {"a.txt": "One, two, three.", "b/c.md": "Four «five»\n\nsix", ".hidden": "no", "d.bin": None}
PROMPTS = ["Count to three.", "Say hello."]


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["specdec", "store", *words])
    cli.main()


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="2"):
        run(words, monkeypatch)
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("specdec: ")]
    return line


@pytest.fixture(scope="module")
def plain() -> SpeculativeGenerator:
    return SpeculativeGenerator.from_pretrained(drafter="none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xfe\x00" if text is None else text.encode())
    (tmp_path / "prompts.jsonl").write_text(
        "\n".join(json.dumps({"question_id": n, "category": "x", "prompt": one}) for n, one in enumerate(PROMPTS))
    )
    return tmp_path


def test_a_folder_of_texts_becomes_a_store_that_says_what_it_is(
    folder: Path, plain: SpeculativeGenerator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["build", str(folder / "texts"), f"output={folder / 'a.store'}"], monkeypatch)
    told = capsys.readouterr().out
    assert "1 of 3 files are no texts in UTF-8, and were passed over." in told
    store = read(folder / "a.store", Vocabulary.of_tokenizer(plain.loaded.model.vocab_size, plain.tokenizer))
    assert [plain.tokenizer.decode(text) for text in store.texts()] == [TEXTS["a.txt"], TEXTS["b/c.md"]]
    assert store.order is not None
    assert f"2 texts, {store.num_tokens} tokens" in told
    run(["show", str(folder / "a.store")], monkeypatch)
    told = capsys.readouterr().out
    for part in ("texts of texts", "embedded", "49152 ids", f"2 texts, {store.num_tokens} tokens, in suffix order"):
        assert part in told
    assert str(folder) not in json.dumps(dict(store.note))


def test_prompts_or_the_targets_answers_to_them_become_a_store(
    folder: Path, plain: SpeculativeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, answers = folder / "prompts.store", folder / "answers.store"
    source = f"data.path={folder / 'prompts.jsonl'}"
    run(["build", source, f"output={prompts}", "order=false"], monkeypatch)
    assert [plain.tokenizer.decode(text) for text in read(prompts).texts()] == PROMPTS
    assert read(prompts).order is None
    run(["build", source, f"output={answers}", "answers=true", "sampling.max_tokens=6"], monkeypatch)
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    want = plain.generate(chats, SamplingParams(max_tokens=6))
    assert list(read(answers).texts()) == [generation.token_ids for generation in want]


def test_what_cannot_become_a_store_is_refused_before_a_model_loads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"output={folder / 'a.store'}"
    for words, message in (
        (["build"], "Nothing was given for output."),
        (["build", str(folder / "text"), out], f"Did you mean {folder / 'texts'}?"),
        (["build", str(folder / "texts"), out, "answers=true"], "answers=true takes prompts."),
        (["build", str(folder / "texts"), f"output={folder}"], "is a folder. Give a file in it."),
        (["build", "data.path=nowhere.jsonl", out], "There is no prompt file at nowhere.jsonl"),
        (["build", out, "ordr=false"], "Did you mean order?"),
        (["show"], "Nothing was given for file."),
        (["show", "nowhere.store"], "There is no store at nowhere.store."),
        (["show", str(folder / "prompts.jsonl")], "it does not begin as a store does. Give a file"),
    ):
        assert message in refused(words, monkeypatch, capsys)
    assert not (folder / "a.store").exists()


def test_texts_without_a_token_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    assert "texts of empty came out empty." in refused(
        ["build", str(folder / "empty"), f"output={folder / 'a.store'}"], monkeypatch, capsys
    )


def test_a_note_cannot_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a", Store.of([[1]], Vocabulary.of(9, None), note={"x\x1b[2J": "y\x1b]0;z\x07\n"}))
    run(["show", str(tmp_path / "a")], monkeypatch)
    assert "\x1b" not in (told := capsys.readouterr().out)
    assert "y?]0;z??" in told
