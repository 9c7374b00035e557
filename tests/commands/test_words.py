"""What a person types reaches the program as it was typed: through the real `main`, to where it is used."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from specdec import cli
from specdec.commands import generate
from specdec.commands.application import config_dir
from specdec.commands.words import literal, quoted, sort_words
from specdec.errors import ConfigError
from specdec.study import preflight
from specdec.study.config import register
from specdec.study.plan import Plan, plan
from tests.fewer import every

pytestmark = pytest.mark.fewer(3)

ROOT = Path(__file__).parents[2]
SENTENCES = [
    "Hello, world",
    "it's a \"quoted\" 'text'",
    "介绍一下你。",
    "Wie groß ist 3 € in £? 🙂👩‍👩‍👧",
    "one\ntwo\r\n\nthree\t4",
    "E = mc^2, a==b; x=1",
    "${x} and ${oc.env:HOME} and \\${y} and ${",
    "# a heading, not a comment",
    "-m --help",
    "trailing blanks   ",
    "   ",
    "null",
    "1e3",
    "true",
    "[x, 'y']",
    "{x: y}",
    "back\\slash \\' and \\\" and \\\\' and \\",
    "السلام عليكم، كيف حالك؟ \u202bשלום\u202c",
    "e\u0301 o\u0308 \u2028 \u0085 \u200b zero width",
    "choice(a,b) range(1,3) ~/x @y ???",
    "word, " * 5000,
]
ODD = ["???", "", "'", "\\", "${", "@@x", "=", ",", "(", "%d {0}"]


def run(*words: str) -> Any:
    """What `specdec <words>` ends with: an exit code, or None."""
    before = sys.argv
    sys.argv = ["specdec", *words]
    try:
        cli.main()
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompts that came to where they are decoded; nothing is loaded."""
    reached: list[str] = []

    def compare(generator: object, labelled: list[tuple[str, str]], *args: object) -> None:
        reached.extend(prompt for _, prompt in labelled)

    monkeypatch.setattr(Plan, "generator", lambda self: SimpleNamespace(tokenizer=SimpleNamespace(chat_template=None)))
    monkeypatch.setattr(generate, "compare", compare)
    monkeypatch.setattr(generate.ConsoleReport, "table", lambda self, comparison: None)
    return reached


@pytest.mark.parametrize("sentence", every(3, [*SENTENCES, "???", ""]), ids=lambda text: text[:12])
def test_a_sentence_is_decoded_as_it_was_typed(sentence: str, prompts: list[str]) -> None:
    assert run("generate", f"prompt={sentence}") is None
    assert prompts == [sentence]


def test_a_sentence_is_the_same_in_a_sweep() -> None:
    """Hydra's sweeper reads every word and writes it anew."""
    parser = OverridesParser.create()
    for sentence in [*SENTENCES, *ODD]:
        word = f"prompt={literal(sentence)}"
        again = f"prompt={parser.parse_override(word).get_value_element_as_str()}"
        register()
        assert OmegaConf.create({"prompt": parser.parse_override(again).value()}).prompt == sentence
    configs = values("generate", "-m", f"prompt={SENTENCES[16]}", "drafter=none,ngram")
    assert [config.prompt for config in configs] == [SENTENCES[16]] * 2


@pytest.mark.parametrize(
    ("words", "data", "want"),
    [
        (["prompt=-"], "zwei\nZeilen 🙂\n\n", "zwei\nZeilen 🙂\n"),
        pytest.param([f"prompt={SENTENCES[6]}"], "", SENTENCES[6], marks=pytest.mark.slow),
        pytest.param([SENTENCES[2]], "", SENTENCES[2], marks=pytest.mark.slow),
        pytest.param(["--", "-m --help"], "", "-m --help", marks=pytest.mark.slow),
        pytest.param(["prompt=@a b.txt"], "", "hé\nllo, ${x}", marks=pytest.mark.slow),
    ],
)
def test_sentences_that_come_through_the_system(words: list[str], data: str, want: str, tmp_path: Path) -> None:
    """Argument lists of a process hold bytes; a file and a pipe hold lines."""
    program = (
        "from specdec.study.plan import Plan\n"
        "Plan.generator = lambda self: None\n"
        "from specdec.commands.application import application\n"
        "seen = []\n"
        "application('generate', lambda config: seen.append(config.prompt), word='prompt')()\n"
        "import sys; sys.stdout.buffer.write(repr(seen).encode())\n"
    )
    (tmp_path / "a b.txt").write_bytes("\ufeffhé\nllo, ${x}\r\n".encode())
    env = os.environ | {"PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, input=data.encode(), cwd=tmp_path, env=env, capture_output=True, check=False)
    assert done.stdout.decode() == repr([want]), done.stderr.decode()


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["Hello, world"], "Hello, world"),
        (["x = 3, what is y?"], "x = 3, what is y?"),
        (["--", "a=b"], "a=b"),
        (["prompt=@@home"], "@home"),
        (["prompt=@"], None),
        (["-5 + 3?"], None),
        (["e=mc2"], None),
        (["Hello", "world"], None),
        (["prompt=a", "prompt=b"], None),
        (["-x"], None),
        (["prompt=@nowhere/file.txt"], None),
        (["+prompt=a, b"], "a, b"),
        (["++prompt=it's"], "it's"),
    ],
)
def test_bare_words_options_and_files(
    words: list[str], want: str | None, prompts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("generate", *words)
    error = capsys.readouterr().err
    if want is None:
        assert (code, prompts) == (2, [])
        [line] = error.splitlines()
        assert line.startswith("specdec: ")
    else:
        assert (code, prompts) == (None, [want])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["Hello", "world"], "'Hello' and 'world'. Put quotes around"),
        (["e=mc2"], "A text that holds `=` follows its key: prompt=…"),
        (["promt=x"], "Did you mean prompt?"),
        (["-5 + 3?"], "A text that begins with a dash follows its key (prompt=-…) or stands behind --"),
        (["prompt=@nowhere/file.txt"], f"The nearest folder that exists is {ROOT}"),
        (["a", "sampling.grammar=@no.json"], "sampling.grammar=@FILE: there is no file at no.json"),
        (["prompt=@README.m"], f"Did you mean {ROOT / 'README.md'}?"),
        (["prompt=@docs"], f"{ROOT / 'docs'} is a folder"),
        (["prompt=\udce4"], "is not UTF-8"),
    ],
)
def test_a_refusal_says_what_to_type(
    words: list[str], part: str, prompts: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert run("generate", *words) == 2
    assert part in capsys.readouterr().err


def test_stdin_that_is_closed_or_no_text_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert run("generate", "prompt=-") == 2
    assert "is closed" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe")))
    assert run("generate", "prompt=-") == 2
    assert "The standard input is not UTF-8" in capsys.readouterr().err


PATHS = [
    "a b/c (1), d.jsonl",
    "it's/[x]{y}.jsonl",
    "${x}/#1 = 2.jsonl",
    "文件.jsonl",
    "a\\b 'c'.jsonl",
    "trailing .jsonl ",
]


@pytest.mark.parametrize("path", every(2, PATHS))
def test_a_path_is_read_as_it_was_typed(path: str, prompts: list[str], tmp_path: Path) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"question_id": 1, "category": "c", "prompt": "Why?"}\n', encoding="utf-8")
    svg = tmp_path / "out, 1" / "${x}'s.svg"
    assert run("generate", f"data.path={file}", f"svg={svg}") is None
    assert prompts == ["Why?"]
    assert svg.read_text(encoding="utf-8").startswith("<svg")


def test_the_home_folder_and_none(prompts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.jsonl").write_text('{"question_id": 1, "category": "c", "prompt": "Home?"}\n', encoding="utf-8")
    assert run("generate", "data.path=~/x.jsonl", "target.path=null") is None
    assert prompts == ["Home?"]


@pytest.mark.parametrize("setting", ["data.path", "target.path"])
@pytest.mark.parametrize("command", ["generate", "study"])
def test_a_missing_path_is_reported_as_one(
    command: str, setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert run(command, f"{setting}={tmp_path}/there/no, such (file)") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/there/no, such (file)" in line
    assert f"The nearest folder that exists is {tmp_path / 'there'}." in line
    assert not (tmp_path / "runs").exists()


def values(name: str, *words: str) -> list[Any]:
    """The configurations of `specdec <name> <words>`."""
    line = sort_words(words)
    bare = {"generate": "prompt", "report": "study", "replay": "trace", "profile": "target.path"}.get(name)
    settings = quoted(line, preflight.typed_settings(config_dir(), name, line.settings), bare)
    return preflight.jobs(config_dir(), name, settings, line.multirun)


TEXT = "a, 'b' (c) ${x} = {d}"


@pytest.mark.parametrize(
    ("name", "words", "setting"),
    every(
        2,
        [
            ("study", [], "runs"),
            ("study", [], "study"),
            ("study", [], "data.path"),
            ("study", [], "precision.calibration"),
            ("study", ["drafter=model"], "drafter.draft"),
            ("study", ["drafter=custom", "drafter._target_=specdec.drafters.model.ModelDrafter"], "+drafter.draft"),
            ("study", ["tracking=wandb_offline"], "tracking.project"),
            ("study", ["tracking=trackio"], "tracking.project"),
            ("study", ["data=file", "data.prompt=x"], "data.path"),
            ("report", ["study=x"], "output"),
            ("report", ["study=x"], "screenshots"),
            ("report", [], "study"),
            ("replay", [], "trace"),
            ("replay", ["trace=x"], "json"),
            ("profile", [], "target.path"),
            ("profile", [], "json"),
            ("certify", [], "json"),
            ("certify", [], "markdown"),
            ("layers_search", [], "target.path"),
            ("layers_search", [], "yaml"),
        ],
    ),
)
def test_every_command_takes_paths_and_names_as_typed(name: str, words: list[str], setting: str) -> None:
    configs = values(name, *words, f"{setting}={TEXT}")
    parts = setting.lstrip("+").split(".")
    for config in configs:
        for part in parts:
            config = config[part]
        assert config == TEXT


def test_parts_are_made_with_paths_as_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdec.study.plan.check_model_path", lambda setting, path: None)
    for path in ("${x}", "\\${x} \\\\${", "a'b"):
        [config] = values("study", f"data.path={path}", f"target.path={path}")
        job = plan(config)
        assert (job.source.path, job.load_options["path"]) == (path, path)


def test_a_sweep_over_texts_is_written_as_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    configs = values("study", "-m", "data.path=choice('a, b', '~/c', \"${d}\")", "drafter=none,ngram")
    assert [config.data.path for config in configs] == ["a, b"] * 2 + ["/home/me/c"] * 2 + ["${d}"] * 2
    assert [config.data.path for config in values("study", "-m", "data.path=a,b", "drafter=none,ngram")] == ["a,b"] * 2
    with pytest.raises(ConfigError, match="Quote each text in it"):
        values("study", "-m", "data.path=choice('a, b)")


def test_folders_of_hydra_may_hold_anything_and_interpolate() -> None:
    words = sort_words(["hydra.sweep.dir=~x/a, b (1)/${study}", "study=it's"])
    settings = quoted(words, {}, None)
    assert settings[0] == "hydra.sweep.dir='~x/a, b (1)/${study}'"


@pytest.mark.parametrize("name", ["study", "certify"])
def test_a_word_that_means_nothing_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "Hello, world") == 2
    assert capsys.readouterr().err == "specdec: 'Hello, world' has no key. Write key=value; --help lists the keys.\n"


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("certify", "quick=maybe", "'maybe' is not a valid bool"),
        ("replay", "seeds=many", "could not be converted to Integer"),
        ("profile", "gamma=0", "gamma = 0 cannot work"),
        ("profile", "precisions=[int9]", "Valid names"),
        ("certify", "mutants=no.such", "mutants='no.such' cannot be used"),
        ("certify", f"json={ROOT}", "is a folder"),
        ("generate", f"svg={ROOT}", "is a folder"),
        ("profile", f"json={ROOT}/README.md/x.json", "is not a folder"),
    ],
)
def test_settings_of_every_command_are_checked_before_the_work(
    name: str, word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, *(["trace=x"] if name == "replay" else []), word) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_values_of_hydras_options_are_no_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "--cfg", "job", "--package", "data", "prompt=a, b") is None
    assert "PromptSet" in capsys.readouterr().out
