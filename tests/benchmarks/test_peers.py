"""The parent's side of the comparison with peers, with workers that only pretend to decode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from benchmarks.peers import install, session
from benchmarks.peers.contenders import WORKERS, Contender, chosen
from benchmarks.peers.measure import Batch, Record, batches_of, measure
from benchmarks.peers.report import batch_report, ratio_report
from benchmarks.peers.session import Plan
from benchmarks.peers.table import markdown
from benchmarks.peers.worker import Worker, WorkerError

EOS = 2
FAKE = f"""
import os, sys
sys.path.insert(0, {str(WORKERS)!r})
from worker_protocol import serve

def start(settings):
    print("engines print")
    if settings.get("dtype") == "int8":
        sys.exit("no such kernels")
    asked = 0

    def generate(prompts, max_tokens):
        nonlocal asked
        asked += 1
        if settings.get("mode") == "ngram" and asked == 3:
            raise MemoryError("it is too small")
        with open(os.environ["ORDER"], "a") as order:
            print(settings.get("name"), prompts[0][0], file=order)
        return [prompt[:max_tokens] for prompt in prompts]

    return generate

serve(start, ["pip"])
"""

StartFake = Callable[..., Worker]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker that answers every prompt with its own beginning, and writes down who was asked for what."""
    path = tmp_path / "fake.py"
    path.write_text(FAKE, encoding="utf-8")
    monkeypatch.setenv("ORDER", str(tmp_path / "order"))
    return path


@pytest.fixture
def start_fake(tmp_path: Path, script: Path) -> Iterator[StartFake]:
    with ExitStack() as stack:

        def start(**settings: object) -> Worker:
            log = tmp_path / f"{settings.get('name')}.log"
            worker = Worker([sys.executable, str(script)], settings, {}, log)
            return stack.enter_context(closing(worker))

        yield start


def test_a_worker_answers_and_its_prints_do_not_get_between(start_fake: StartFake) -> None:
    worker = start_fake(name="one")
    assert worker.versions.keys() == {"pip"}
    answer = worker.generate([[5, 6, 7], [8]], 2)
    assert answer.outputs == [[5, 6], [8]]
    assert answer.seconds > 0


def test_a_worker_that_is_not_asked_is_stopped(start_fake: StartFake) -> None:
    worker = start_fake(name="idle")
    for _ in range(2):
        found = os.waitid(os.P_PID, worker._process.pid, os.WSTOPPED | os.WNOWAIT)
        assert found is not None
        assert found.si_code == os.CLD_STOPPED
        worker.generate([[1]], 1)


def test_a_worker_that_cannot_load_says_why(start_fake: StartFake) -> None:
    with pytest.raises(WorkerError, match=r"no such kernels \(exit status 1\)"):
        start_fake(name="broken", dtype="int8")


def test_contenders_take_turns_and_the_first_changes(start_fake: StartFake, tmp_path: Path) -> None:
    workers = {name: start_fake(name=name) for name in "abc"}
    batches = [Batch("x", [[10, EOS]]), Batch("y", [[20, 21, 22]])]
    records, failed = measure(workers, batches, max_tokens=2, repeats=2, eos=[EOS])
    asked = (tmp_path / "order").read_text(encoding="utf-8").split("\n")[:-1]
    warm_up, measured = asked[:3], asked[3:]
    assert warm_up == ["a 10", "b 10", "c 10"]
    assert measured == [
        *("a 10", "b 10", "c 10", "b 20", "c 20", "a 20"),
        *("b 10", "c 10", "a 10", "c 20", "a 20", "b 20"),
    ]
    assert not failed
    assert records["a"].outputs == [[[10]], [[20, 21]]]  # without the end token
    assert records["a"].tokens == [[1, 2], [1, 2]]
    assert records["a"].repeated


def test_a_worker_that_dies_is_left_out_and_the_others_finish(start_fake: StartFake) -> None:
    workers = {"dies": start_fake(name="dies", mode="ngram"), "lives": start_fake(name="lives")}
    records, failed = measure(workers, [Batch("x", [[1, 1]])] * 3, max_tokens=2, repeats=2, eos=[EOS])
    assert failed == {"dies": "stopped while decoding: MemoryError: it is too small (exit status 1)"}
    assert records.keys() == {"lives"}
    assert records["lives"].tokens == [[2, 2, 2], [2, 2, 2]]


def test_batches_hold_one_category_each() -> None:
    prompts = [("x", [1]), ("y", [2]), ("x", [3]), ("x", [4])]
    assert batches_of(prompts, 2) == [Batch("x", [[1], [3]]), Batch("x", [[4]]), Batch("y", [[2]])]


BATCHES = [Batch("x", [[1]]), Batch("y", [[2]])]


def record(seconds: list[list[float]], outputs: list[list[list[int]]]) -> Record:
    tokens = [[sum(map(len, batch)) for batch in outputs]] * len(seconds)
    return Record(seconds=seconds, tokens=tokens, outputs=outputs)


RECORDS = {
    "ours-plain-bf16": record([[1.0, 1.0], [2.0, 2.0], [1.0, 2.0]], [[[5, 5]], [[6, 6]]]),  # 2, 1, 4/3 tokens/s
    "ours-ngram-bf16": record([[0.5, 1.0], [1.0, 1.0], [0.5, 0.5]], [[[5, 5]], [[6, 6]]]),  # 8/3, 2, 4
    "llamacpp-plain-bf16": record([[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]], [[[5, 5]], [[6, 6]]]),  # 1, 1, 1
    "llamacpp-ngram-bf16": record([[1.0, 0.5], [1.0, 0.5], [1.0, 0.5]], [[[5, 5]], [[7]]]),  # 2, 2, 2
}


def test_ratios_are_formed_within_a_repetition() -> None:
    found = batch_report(RECORDS, BATCHES)["contenders"]["ours-ngram-bf16"]
    assert found["tokens_per_second"] == {"median": pytest.approx(8 / 3), "min": 2, "max": 4}
    assert found["ratio_to_baseline"] == pytest.approx({"median": 2, "min": 4 / 3, "max": 3})
    assert found["tokens_per_second_by_category"] == {"x": 4, "y": 2}


def test_outputs_are_compared_with_the_same_engine_without_speculation() -> None:
    found = batch_report(RECORDS, BATCHES)["contenders"]
    assert found["ours-ngram-bf16"]["same_as_plain"] == {"same": 2, "of": 2}
    assert found["llamacpp-ngram-bf16"]["same_as_plain"] == {"same": 1, "of": 2}
    assert found["llamacpp-plain-bf16"]["same_as_plain"] is None


def test_the_ratios_that_matter_name_both_sides() -> None:
    found = ratio_report(1, RECORDS, BATCHES)
    plain, speculating = (
        found["batch1_ours_plain_over_llamacpp_plain"],
        found["batch1_ours_ngram_over_best_peer_speculation"],
    )
    assert plain["overall"] == pytest.approx({"median": 4 / 3, "min": 1, "max": 2})
    assert (speculating["over"], speculating["under"]) == ("ours-ngram-bf16", "llamacpp-ngram-bf16")
    assert speculating["overall"] == pytest.approx({"median": 4 / 3, "min": 1, "max": 2})
    assert speculating["by_category"]["y"]["median"] == 1
    assert "batch1_ours_plain_over_vllm_plain" not in found
    assert "batch8_ours_ngram_over_ours_plain" in ratio_report(8, RECORDS, BATCHES)


def test_what_fails_is_reported_and_the_rest_is_measured(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_install(peer: str) -> str | None:
        return "installing failed: ERROR: No matching distribution" if peer == "vllm" else None

    monkeypatch.setattr(session, "install", fake_install)
    monkeypatch.setattr(session, "prepare", lambda peer: None)
    monkeypatch.setattr(session, "HOME", script.parent)
    monkeypatch.setattr(Contender, "command", [sys.executable, str(script)])
    contenders = chosen(["ours-plain-bf16", "ours-plain-int8", "llamacpp-plain-bf16", "llamacpp-ngram-bf16", "vllm"])
    prompts = [("x", [5, 6, 7]), ("y", [8, 9])]
    found = session.compare(contenders, prompts, [EOS], Plan(max_tokens=2, repeats=2, batch_sizes=(1, 8)))
    no_vllm = "installing failed: ERROR: No matching distribution"
    assert found["left_out"] == {
        "vllm-plain-bf16": no_vllm,
        "vllm-ngram-bf16": no_vllm,
        "ours-plain-int8": "did not start: no such kernels (exit status 1)",
        "llamacpp-ngram-bf16": "stopped while decoding: MemoryError: it is too small (exit status 1)",
    }
    assert found["batch"]["1"]["contenders"].keys() == {"ours-plain-bf16", "llamacpp-plain-bf16"}
    assert found["batch"]["8"]["contenders"].keys() == {"ours-plain-bf16"}
    assert found["batch"]["8"]["contenders"]["ours-plain-bf16"]["tokens"] == [4, 4]
    about = {"model": "none", "machine": "this", "max_tokens": 2, "repeats": 2, "threads": 2}
    text = markdown(json.loads(json.dumps(about | found)))
    assert f"- vllm-plain-bf16: {no_vllm}" in text
    assert "| llamacpp-plain-bf16 |" in text


def test_a_failed_install_tells_pips_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pip(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        is_pip = "pip" in command
        if is_pip:
            options["stdout"].write("Collecting\nERROR: No matching distribution found for engine==0\nnotice\n")  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(command, int(is_pip))

    monkeypatch.setattr(install, "HOME", tmp_path)
    monkeypatch.setattr(install.subprocess, "run", no_pip)
    assert install.install_all(["vllm"]) == {
        "vllm": "installing failed: ERROR: No matching distribution found for engine==0"
    }


def test_an_environment_is_made_anew_only_when_its_pins_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(install, "HOME", tmp_path)
    monkeypatch.setattr(install, "run_logged", lambda command, log: ran.append(command))
    (tmp_path / "fake").mkdir()
    pins = tmp_path / "pins.txt"
    for text, commands in (("engine==1", 2), ("engine==1", 2), ("engine==2", 4)):
        pins.write_text(text, encoding="utf-8")
        assert install.install("fake", pins) is None
        assert len(ran) == commands


def test_contenders_are_chosen_by_name_or_engine() -> None:
    assert [each.name for each in chosen(["openvino", "ours-plain-int8"])] == [
        "ours-plain-int8",
        "openvino-plain-bf16",
        "openvino-ngram-bf16",
    ]
    with pytest.raises(ValueError, match="There is no contender 'oven'"):
        chosen(["oven"])
