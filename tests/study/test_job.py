"""Jobs in this process: rows, figures, resumption, failure."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from specdec import ConfigError, InvalidRequestError, SpeculativeGenerator
from specdec.analysis.traces import load_trace
from specdec.measure.folders import RunFolder
from specdec.measure.runs import LINES, TRACE, Run
from specdec.models.loading import load
from specdec.report import text
from specdec.report.leaderboard import NOT_CREDIBLE
from specdec.study import sweep
from specdec.study.plan import plan

SAMPLED = ("sampling=sample", "sampling.max_tokens=12", "sampling.ignore_eos=true")


@pytest.fixture(autouse=True)
def _first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra is not running here."""
    monkeypatch.setattr(sweep, "_job_number", lambda: 1)


def run(config: DictConfig) -> Run:
    return sweep.run(config)


def facts(run: Run) -> list[dict[str, Any]]:
    """Rows without times."""
    kept = ("index", "question_id", "text", "token_ids", "plain_token_ids", "seed", "identical", "tau", "alpha")
    return [{name: row[name] for name in kept} for row in run.rows]


def test_rows_and_steps_are_those_of_the_generator_itself(
    composed: Callable[..., DictConfig], tiny_folder: Path, prompt_file: Path
) -> None:
    done = run(composed("chat=false"))
    generator = SpeculativeGenerator(load(str(tiny_folder)), "none")
    prompts = [json.loads(line)["prompt"] for line in prompt_file.read_text(encoding="utf-8").splitlines()]
    from specdec import SamplingParams

    plain = generator.generate(prompts, SamplingParams(max_tokens=12, ignore_eos=True))
    assert done.status == "done"
    assert [row["token_ids"] for row in done.rows] == [g.token_ids for g in plain]
    assert [row["identical"] for row in done.rows] == [True] * 4
    for row in done.rows:
        steps = [step for step in done.steps if step["index"] == row["index"]]
        assert "".join(text for step in steps for text in step["texts"]) == row["text"]
        assert sum(step["accepted"] for step in steps) == sum(row["stats"]["accepted_at"])
        assert sum(step["tested"] for step in steps) == sum(row["stats"]["tested_at"])
        assert row["tau"] == pytest.approx(12 / len(steps))
        assert steps[0]["anchor"] == row["prompt_tokens"]
        refused = [step for step in steps if step["tested"] > step["accepted"]]
        assert all(step["rejected"] is not None for step in refused)


CONVERSATIONS = [
    {"question_id": 1, "category": "math", "turns": ["red green red green", "red red green", "green"]},
    {"question_id": 2, "category": "qa", "turns": ["one two three one two"]},
    {"question_id": 3, "category": "stem", "turns": ["blue blue blue", "blue, why"]},
]


@pytest.fixture
def conversations(tmp_path: Path) -> str:
    """A setting that names a file of them."""
    path = tmp_path / "question.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in CONVERSATIONS), encoding="utf-8")
    return f"data.path={path}"


def test_every_turn_reads_the_answers_before_it(
    composed: Callable[..., DictConfig], tiny_folder: Path, conversations: str
) -> None:
    from specdec import SamplingParams

    done = run(composed("data=spec_bench", conversations, "certified=false"))
    assert done.status == "done", done.error
    generator = SpeculativeGenerator(load(str(tiny_folder)), "none")
    for row, asked in zip(done.rows, CONVERSATIONS, strict=True):
        chat: list[dict[str, str]] = []
        assert [turn["prompt"] for turn in row["turns"]] == asked["turns"]
        for number, turn in enumerate(row["turns"]):
            chat.append({"role": "user", "content": turn["prompt"]})
            [wanted] = generator.generate([chat], SamplingParams(max_tokens=12, ignore_eos=True))
            assert (turn["token_ids"], turn["text"]) == (wanted.token_ids, wanted.text)
            assert (turn["plain_token_ids"], turn["plain_text"]) == (wanted.token_ids, wanted.text)
            assert turn["stats"]["prompt_tokens"] == wanted.stats.prompt_tokens
            steps = [step for step in done.steps if (step["index"], step["turn"]) == (row["index"], number)]
            assert len(steps) == turn["stats"]["passes"]
            assert steps[0]["anchor"] == turn["stats"]["prompt_tokens"]
            assert "".join(text for step in steps for text in step["texts"]) == turn["text"]
            chat.append({"role": "assistant", "content": wanted.text})
        numbers = [step["step"] for step in done.steps if step["index"] == row["index"]]
        assert numbers == list(range(row["stats"]["passes"]))
        assert row["output_tokens"] == 12 * len(asked["turns"]) == len(row["token_ids"])
        assert row["identical"]
    assert [(row["category"], row["kind"]) for row in done.rows] == [
        ("mt_bench", "math"), ("qa", None), ("mt_bench", "stem")
    ]  # fmt: skip
    assert {name: told["prompts"] for name, told in done.summary["by_category"].items()} == {"mt_bench": 2, "qa": 1}
    assert done.summary["metrics"]["output_tokens"] == 72


def test_conversations_in_a_batch_give_the_same_rows(composed: Callable[..., DictConfig], conversations: str) -> None:
    words = ("data=spec_bench", conversations, "rule=gumbel", "certified=false", *SAMPLED)
    alone, together = run(composed(*words)), run(composed(*words, "batch=3"))
    assert facts(together) == facts(alone)
    assert all(row["identical"] for row in together.rows)


def test_each_side_reads_its_own_answers(composed: Callable[..., DictConfig], conversations: str) -> None:
    """With a rule that keeps the distribution but not the text, the sides answer differently."""
    drafter = ("drafter=early_exit", "drafter.num_layers=1", "rule=token", "certified=false")
    config = composed("data=spec_bench", conversations, *drafter, *SAMPLED)
    done = run(config)
    first, second = done.rows[2]["turns"]
    assert first["text"] != first["plain_text"]
    chat = [{"role": "user", "content": first["prompt"]}, {"role": "assistant", "content": first["plain_text"]},
            {"role": "user", "content": second["prompt"]}]  # fmt: skip
    job = plan(config)
    [wanted] = job.generator().with_drafter("none").generate([chat], job.params_of([2]))
    assert second["plain_token_ids"] == wanted.token_ids


def test_without_a_chat_template_what_was_said_is_one_text(
    composed: Callable[..., DictConfig], tiny_folder: Path, conversations: str
) -> None:
    from specdec import SamplingParams

    done = run(composed("data=spec_bench", conversations, "chat=false", "certified=false"))
    first, second = done.rows[2]["turns"]
    said = f"blue blue blue\n\n{first['text']}\n\nblue, why"
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    [wanted] = SpeculativeGenerator(load(str(tiny_folder)), "none").generate([said], params)
    assert second["token_ids"] == wanted.token_ids


def test_variables_of_the_chat_template_are_settings(
    composed: Callable[..., DictConfig], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "target"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").write_text("{{ tone }}, {{ messages[0].content }}", encoding="utf-8")
    job = plan(composed(f"target.path={folder}", "+template_kwargs.tone=kindly"))
    generator = job.generator()
    wanted = generator.tokenizer.encode("kindly, Hi", add_special_tokens=False)
    assert generator.encode(job.prompt(["Hi"], generator)) == wanted
    assert job.axes["template_kwargs.tone"] == "kindly"
    other = plan(composed(f"target.path={folder}", "+template_kwargs.mood=kind"))
    with pytest.raises(
        InvalidRequestError, match=r"does not read 'mood', so it would do nothing. It reads messages, tone"
    ):
        generator.encode(other.prompt(["Hi"], generator))
    with pytest.raises(ConfigError, match=r"template_kwargs.tone does nothing with chat=false"):
        plan(composed("+template_kwargs.tone=kindly", "chat=false"))


def test_the_figures_are_sums_over_the_rows(composed: Callable[..., DictConfig]) -> None:
    done = run(composed())
    told = done.summary["metrics"]
    assert (told["prompts"], told["output_tokens"], told["identical"], told["comparable"]) == (4, 48, 4, 4)
    passes = sum(row["stats"]["passes"] for row in done.rows)
    assert told["tau"] == pytest.approx(48 / passes)
    assert sum(done.summary["acceptance_histogram"]) == passes
    assert told["draft_share"] + told["verify_share"] + told["host_share"] == pytest.approx(1)
    assert told["wasted_tokens"] == sum(step["drafted"] - step["accepted"] for step in done.steps)
    assert told["speedup_low"] <= told["speedup"] <= told["speedup_high"]
    assert list(done.summary["by_category"]) == ["colours", "counting"]
    assert done.summary["by_category"]["colours"]["prompts"] == 2
    found = [row["cached_tokens"] for row in done.rows]
    assert told["cached_tokens"] == sum(found) > 0  # what chats begin with
    assert told["prefix_hit_rate"] == pytest.approx(sum(found) / sum(row["prompt_tokens"] for row in done.rows))
    assert told["evicted_tokens"] == 0
    assert 0 < told["kv_occupancy"] < 1
    assert 0 <= told["kv_waste"] < 1
    assert told["ttft_ms"] > 0
    assert told["itl_p50_ms"] <= told["itl_p95_ms"] <= told["itl_p99_ms"]
    assert done.summary["certificate"]["passed"]
    assert done.environment["versions"]["torch"]


def test_of_several_drafters_it_is_told_who_drafted(composed: Callable[..., DictConfig]) -> None:
    """The policy of the test takes them in turns; the target's first layer always has a guess."""
    turns = {"policy": "custom", "policy._target_": "tests.study.parts.Turns"}
    words = [f"{key}={value}" for key, value in turns.items()]
    done = run(composed("drafter=early_exit", "beside=[ngram,none]", "rule=gumbel", *words))
    assert done.status == "done", done.error
    assert done.axes["drafter"] == "early_exit+ngram+none"
    assert done.name.startswith("early_exit-ngram-none-auto-")
    steps = Counter(step["drafter"] for step in done.steps)
    assert steps["early_exit"] > 4
    assert steps.keys() <= {"early_exit", "ngram", "none"}
    told = {one["drafter"]: one for one in done.summary["by_drafter"] if one["category"] is None}
    assert {name: one["steps"] for name, one in told.items() if one["steps"]} == steps
    assert sum(one["share"] for one in told.values()) == pytest.approx(1)
    assert sum(one["output_tokens"] for one in told.values()) == 48
    assert told["ngram"]["seconds"] > 0  # with drafts or without
    along = [one for one in done.summary["along_the_text"] if one["category"] is None]
    assert sum(one["steps"] for one in along) == sum(steps.values())
    assert {one["begin"] for one in along} == {0}  # twelve tokens
    with pytest.raises(ConfigError, match=r"beside=\['ngram'\] names 'ngram', which is there already"):
        plan(composed("beside=[ngram]"))
    with pytest.raises(ConfigError, match="Unknown drafter 'ngrams'"):
        plan(composed("beside=[ngrams]"))


def test_memory_of_a_drafter_is_told_whatever_it_tells(composed: Callable[..., DictConfig]) -> None:
    def held(drafter: str) -> tuple[str, float]:
        done = run(composed("drafter=custom", f"drafter._target_=tests.study.parts.{drafter}", "data.limit=1"))
        return done.status, done.summary["metrics"]["drafter_memory_mb"]

    assert held("Hoarder") == ("done", 3.0)
    assert held("Forgetful") == ("done", 0.0)
    plain, ngram = run(composed("drafter=none", "data.limit=1")), run(composed("data.limit=1"))
    assert plain.summary["metrics"]["drafter_memory_mb"] == 0
    assert ngram.summary["metrics"]["drafter_memory_mb"] > 0  # its index goes with its request


def test_a_batch_gives_the_same_rows(composed: Callable[..., DictConfig]) -> None:
    assert facts(run(composed("batch=4", *SAMPLED))) == facts(run(composed(*SAMPLED)))


def test_a_drafter_with_a_q_has_distances_a_calibration_and_a_trace(composed: Callable[..., DictConfig]) -> None:
    config = composed("drafter=early_exit", "drafter.num_layers=1", "rule=token", "trace.save=true", *SAMPLED)
    done = run(config)
    assert len(done.summary["tv_by_position"]) == 3
    assert all(0 < distance < 1 for distance in done.summary["tv_by_position"])
    bins = done.summary["calibration"]
    assert sum(one["count"] for one in bins) > 0
    assert all(0 <= one["accepted"] <= 1 for one in bins)
    trace = load_trace(done.folder / TRACE)
    assert trace.info.drafter == "early_exit"
    recorded = trace.replay("token")
    first_two = [row["stats"] for row in done.rows[:2]]
    assert recorded.passes == sum(stats["passes"] for stats in first_two)
    assert done.rows[0]["identical"] is None  # another rule than plain decoding's: same law, other text


def test_a_trace_of_every_position_has_an_anchor_at_each(
    composed: Callable[..., DictConfig],
) -> None:
    words = ("trace.save=true", "trace.every_position=true", "trace.prompts=1", "data.limit=1", "baseline=false")
    done = run(composed("drafter=early_exit", "drafter.num_layers=1", "rule=token", *words, *SAMPLED))
    trace = load_trace(done.folder / TRACE)
    assert trace.info.every_position
    assert trace.replay("token", seed=0).passes == done.rows[0]["output_tokens"] == 12


def test_the_environment_tells_the_threads_that_the_job_has(composed: Callable[..., DictConfig]) -> None:
    before = torch.get_num_threads()
    try:
        done = run(composed("device.threads=2", "data.limit=1"))
    finally:
        torch.set_num_threads(before)
    assert done.environment["threads"] == 2
    assert "2 torch threads" in done.environment["machine"]


def test_a_done_job_is_not_run_again_unless_asked_to(composed: Callable[..., DictConfig]) -> None:
    first = run(composed())
    again = run(composed())
    assert again.environment["started"] == first.environment["started"]
    assert again.rows == first.rows
    anew = run(composed("rerun=true"))
    assert anew.folder == first.folder
    assert facts(anew) == facts(first)
    assert anew.rows[0]["stats"]["verify_seconds"] != first.rows[0]["stats"]["verify_seconds"]


def test_an_interrupted_job_ends_with_the_same_rows(composed: Callable[..., DictConfig], tmp_path: Path) -> None:
    whole = run(composed(*SAMPLED))
    lines = [json.dumps(row) for row in _lines(whole)]
    folder = RunFolder(whole.folder)
    folder.begin(whole.config, whole.axes, whole.environment, anew=True)
    (whole.folder / LINES).write_text("\n".join([*lines[:2], lines[2][:40]]), encoding="utf-8")
    resumed = run(composed(*SAMPLED))
    assert facts(resumed) == facts(whole)
    assert resumed.rows[:2] == whole.rows[:2]  # with their times: they were not decoded again


def test_a_drafter_that_learns_from_earlier_prompts_begins_its_job_anew(composed: Callable[..., DictConfig]) -> None:
    """What it had learnt is gone: a job that goes on would draft otherwise."""
    drafter = ("drafter=suffix", "drafter.floor=0.0", "policy=always")
    whole = run(composed(*drafter, *SAMPLED))
    lines = [json.dumps(row) for row in _lines(whole)]
    folder = RunFolder(whole.folder)
    folder.begin(whole.config, whole.axes, whole.environment, anew=True)
    (whole.folder / LINES).write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    resumed = run(composed(*drafter, *SAMPLED))
    assert facts(resumed) == facts(whole)
    assert resumed.rows[0]["stats"]["verify_seconds"] != whole.rows[0]["stats"]["verify_seconds"]
    steps = [[(step["index"], step["drafted"], step["accepted"]) for step in each.steps] for each in (whole, resumed)]
    assert steps[0] == steps[1]
    assert sum(drafted for _, drafted, _ in steps[0]) > 0


def _lines(run: Run) -> list[dict[str, Any]]:
    """What `rows.jsonl` held, out of the tables."""
    from dataclasses import fields

    from specdec.measure.rows import PromptRow

    names = [field.name for field in fields(PromptRow) if field.name != "steps"]
    return [
        {name: row[name] for name in names} | {"steps": [s for s in run.steps if s["index"] == row["index"]]}
        for row in run.rows
    ]


def test_a_failed_job_is_kept_and_the_study_says_so(
    composed: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = run(composed())
    failed = run(composed("engine.num_blocks=2"))  # no room for a single prompt
    assert failed.status == "failed"
    assert "OutOfBlocksError" in (failed.error or "")
    assert not sweep.finish(good.folder.parent, report=False)
    assert not sweep.finish(good.folder.parent, report=False, asked={failed.name})
    assert sweep.finish(good.folder.parent, report=False, asked={good.name})
    assert not sweep.finish(good.folder.parent, report=False, asked={good.name, "never-began"})
    document = (good.folder.parent / "leaderboard.md").read_text(encoding="utf-8")
    assert "Failed: ngram" in document
    assert "OutOfBlocksError" in document
    told = json.loads((good.folder.parent / "leaderboard.json").read_text(encoding="utf-8"))
    assert sorted(one["status"] for one in told) == ["done", "failed"]
    assert {one["machine"] for one in told} == {good.environment["machine"]}


def test_a_speedup_above_tau_is_never_shown(composed: Callable[..., DictConfig]) -> None:
    done = run(composed())

    def shown(side_by_side: bool = False, **figures: Any) -> str:
        measured = {"tau": 3.0, "speedup": 2.5, "speedup_low": 2.4, "speedup_high": 2.6}
        metrics = done.summary["metrics"] | measured | figures
        changed = replace(
            done,
            summary=done.summary | {"metrics": metrics},
            environment=done.environment | {"side_by_side": side_by_side},
        )
        return text.rows([changed])[0][1]

    assert shown(credible=False) == NOT_CREDIBLE
    assert shown(credible=True, tau=2.49) == NOT_CREDIBLE
    assert shown(credible=True) == "2.50 (2.40–2.60)"
    assert shown(credible=True, side_by_side=True) == "2.50 (2.40–2.60, beside other jobs)"
    assert shown(speedup=None, credible=True) == "–"
