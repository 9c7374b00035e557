"""`specdec train`, from nothing to a head that can be read, on a target of a hundred thousand weights."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from specdec import cli
from specdec.errors import ConfigError
from specdec.heads.files import load_head
from specdec.tracking import NoTracker
from specdec.training.batches import Batching
from specdec.training.corpus import Answers
from specdec.training.newhead import spread
from specdec.training.prompts import Mix
from specdec.training.run import Run
from specdec.training.schedule import LoopConfig, Schedule
from specdec.training.settings import HeadOptions, Settings
from tests.training.chats import save_target

WORDS = ["preset=tiny", "mix.packages=[]", "mix.passages=0", "mix.tasks=0.8", "mix.turn_tokens=20",
         "answers.tokens=600", "answers.chunk=16", "answers.max_tokens=24", "head.draft_vocab_size=200",
         "dtype=float32", "held_out=2", "loop.points=3", "writer=batch", "batching.texts=2",
         "schedule.epochs=1"]  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_target(tmp_path_factory.mktemp("target"))


def command(target: Path, output: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "specdec", "train", f"output={output}", f"target.path={target}", *WORDS, *words]


def test_one_command_makes_a_head(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(NoTracker, "start", lambda self, name, *rest: told.append(name))
    monkeypatch.setattr(NoTracker, "point", lambda self, values: told.append(values))
    monkeypatch.setattr(NoTracker, "close", lambda self: told.append("closed"))
    monkeypatch.setattr(sys, "argv", command(target, tmp_path / "run")[2:])
    cli.main()
    head = load_head(tmp_path / "run/head")
    record = json.loads((tmp_path / "run/training.json").read_text(encoding="utf-8"))
    assert head.config.draft_vocab_size == 200
    assert len(head.draft_ids) == 200
    assert record["curves"][-1]["step"] == record["step"] > 3
    assert len(record["curves"][-1]["held_out"]["survival"]) == head.config.num_drafted
    assert [told[0], told[-1]] == ["run", "closed"]
    assert [values["loss"] for values in told[1:-1]] == [point["loss"] for point in record["curves"]]
    assert told[-2]["held_out/survival/2"] == record["curves"][-1]["held_out"]["survival"][1]
    card = (tmp_path / "run/head/README.md").read_text(encoding="utf-8")
    assert "preset=tiny" in card
    assert f"| tokens seen by the loss, all epochs | {record['tokens']} |" in card
    for source, one in record["learnt"].items():
        assert re.search(rf"\| {source} \| .* \| {one['answers']} \| {one['tokens']} \|", card)
    assert sum(one["tokens"] for one in record["learnt"].values()) == record["answer_tokens"]
    assert sum(one["answers"] for one in record["tried"].values()) == 1
    assert record["curves"][-1]["loss"] < record["curves"][0]["loss"]


def settings(target: Path, output: Path, **head: Any) -> Settings:
    return Settings(
        str(output), {"path": str(target)}, seed=2, held_out=2, writer="batch",
        head=HeadOptions(**{"block_size": 2, "draft_vocab_size": 200, "markov_rank": 4} | head),
        mix=Mix(tasks=1.0, passages=0, second_turns=0), answers=Answers(tokens=500, chunk=16, max_tokens=24),
        batching=Batching(texts=2, anchors=4, max_length=200, seed=2), schedule=Schedule(epochs=1),
        loop=LoopConfig(points=2, evaluations=1),
    )  # fmt: skip


@pytest.mark.parametrize(
    "head",
    [{}, pytest.param({"architecture": "block", "start": "target"}, marks=pytest.mark.slow)],
    ids=["eagle3", "block"],
)
def test_the_same_settings_make_the_same_head(target: Path, tmp_path: Path, head: dict[str, Any]) -> None:
    lines: list[str] = []
    for name in ("a", "b"):
        Run(settings(target, tmp_path / name, **head), lines.append).train()
    assert load_head(tmp_path / "a/head").config.architecture == head.get("architecture", "eagle3")
    one, two = ((tmp_path / name / "head/model.safetensors").read_bytes() for name in ("a", "b"))
    assert one == two
    assert any("held out; the draft vocabulary has" in line for line in lines)
    assert any(re.search(r"answers \d+ %, \d+ s left: [\d,]+ of 500 tokens, \d+ tokens/s$", line) for line in lines)
    assert any(re.search(r"training 100 %, 0 s left: step \d+, loss", line) for line in lines)


@pytest.mark.parametrize(
    "architecture", ["eagle3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("block", "medusa"))]
)
def test_every_kind_of_head_learns_and_is_read_again(architecture: str, target: Path, tmp_path: Path) -> None:
    run = settings(target, tmp_path)
    head_options, schedule = replace(run.head, architecture=architecture), Schedule(epochs=4, lr=5e-3)
    progress = Run(replace(run, taps_gib=0.1, head=head_options, schedule=schedule), str).train()
    head = load_head(tmp_path / "head")
    assert head.config.architecture == architecture
    assert head.config.num_drafted == len(progress.curves[-1]["accuracy"]) == 2
    assert progress.curves[-1]["loss"] < progress.curves[0]["loss"]


def test_what_is_kept_teaches_almost_the_same(target: Path, tmp_path: Path) -> None:
    runs = [settings(target, tmp_path / name) for name in ("anew", "kept")]
    losses = []
    for run, gib in zip(runs, (None, 0.1), strict=True):
        losses.append([point["loss"] for point in Run(replace(run, taps_gib=gib), str).train().curves])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]
    assert (tmp_path / "kept/taps.rows").exists()


def test_a_run_without_time_is_refused(target: Path, tmp_path: Path) -> None:
    late = settings(target, tmp_path)
    object.__setattr__(late, "schedule", Schedule(seconds=1e-3))
    with pytest.raises(ConfigError):
        Run(late, str).train()


def test_taps_are_spread_over_the_layers() -> None:
    assert spread(30) == (2, 15, 27)
    assert spread(1) == (0, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss.kl=0"], "teaches nothing"),
        (["dtype=int8"], "cannot teach"),
        (["head.architecture=mtp"], "Give one of eagle3, block, medusa"),
        (["deny=[nothing.jsonl]"], "no prompt file at nothing.jsonl"),
        (["prompts=[nothing.txt]"], "Give one with prompts=…"),
        (["schedule.lr=0"], "lr = 0"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["specdec", "train", str(tmp_path / "run"), *words])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_one_that_was_not(target: Path, tmp_path: Path) -> None:
    """SIGKILL at several points: the head is the same to the bit."""
    words = ["loop.checkpoint_seconds=0.001", "taps_gib=1"]
    subprocess.run(command(target, tmp_path / "whole", *words), check=True, capture_output=True)
    kills = 0
    for marks in (1, 3, 7):  # lines of output after which it is killed
        with subprocess.Popen(command(target, tmp_path / "cut", *words), stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            for _ in range(marks):
                running.stdout.readline()
            running.send_signal(signal.SIGKILL)
            kills += running.wait() == -signal.SIGKILL
    subprocess.run(command(target, tmp_path / "cut", *words), check=True, capture_output=True)
    one, two = ((tmp_path / name / "head/model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert kills >= 2
    assert one == two


@pytest.mark.slow
def test_two_processes_train_as_one(target: Path, tmp_path: Path) -> None:
    """Their gradients are those of the whole batch, up to the order of sums."""
    subprocess.run(command(target, tmp_path / "one"), check=True, capture_output=True)
    words = command(target, tmp_path / "two")[1:]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words]
    done = subprocess.run(launch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / name / "training.json").read_text(encoding="utf-8")) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    losses = [[point["loss"] for point in record["curves"]] for record in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    weights = [load_file(tmp_path / name / "checkpoint.safetensors") for name in ("one", "two")]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-3) for name in weights[0])
