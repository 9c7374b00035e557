"""The parent's side of the comparison with peers, with workers that only pretend to decode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from math import e, log
from pathlib import Path

import pytest

from benchmarks.peers import install, session
from benchmarks.peers.contenders import CONTENDERS, FLAGS, OURS, PEERS, WORKERS, Contender, chosen
from benchmarks.peers.measure import Batch, Measured, Record, batches_of, measure
from benchmarks.peers.report import batch_report, ratio_report
from benchmarks.peers.session import Plan
from benchmarks.peers.table import markdown
from benchmarks.peers.worker import Worker, WorkerError
from benchmarks.peers.workers.token_losses import losses_of

EOS = 2
FAKE = f"""
import os, sys
sys.path.insert(0, {str(WORKERS)!r})
from worker_protocol import Engine, serve

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

    def forget():
        with open(os.environ["ORDER"], "a") as order:
            print(settings.get("name"), "forgets", file=order)

    return Engine(generate, lambda text: [float(token) for token in text[1:]], forget)

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


def test_losses_are_those_of_the_softmax() -> None:
    logits = [[0.0, 0.0], [log(3.0), 0.0], [50.0, 900.0]]
    losses = losses_of(logits, [1, 0, 1])  # the last row is of a token that is not there
    assert losses == pytest.approx([log(2), log(4)])
    assert losses_of([[900.0, 0.0], [0.0, 0.0]], [0, 0]) == [0.0]


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
    forgetting = ["a forgets", "b forgets", "c forgets"]
    assert asked == [
        *("a 10", "b 10", "c 10", *forgetting),
        *("a 10", "b 10", "c 10", "b 20", "c 20", "a 20", *forgetting),
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


BASE = record([[1.0, 1.0], [2.0, 2.0], [1.0, 2.0]], [[[5, 5]], [[6, 6]]])  # 2, 1, 4/3 tokens/s
OTHER_BASE = record([[2.0, 2.0], [1.0, 1.0], [2.0, 2.0]], [[[5, 5]], [[6, 6]]])  # 1, 2, 1: of another class
FOUND = {
    "ours-plain-bf16": Measured(BASE, BASE),
    "ours-ngram-bf16": Measured(record([[0.5, 1.0], [1.0, 1.0], [0.5, 0.5]], BASE.outputs), BASE),  # 8/3, 2, 4
    "llamacpp-plain-bf16": Measured(record([[2.0, 2.0]] * 3, BASE.outputs), BASE),  # 1, 1, 1
    "llamacpp-ngram-bf16": Measured(record([[1.0, 0.5]] * 3, [[[5, 5]], [[7]]]), BASE),  # 2, 2, 2
    "ours-plain-gguf": Measured(record([[1.0, 1.0]] * 3, BASE.outputs), OTHER_BASE),  # 2, 2, 2
    "llamacpp-plain-q4_1": Measured(record([[4.0, 4.0]] * 3, BASE.outputs), OTHER_BASE),  # 1/2
}


def test_ratios_are_formed_within_a_repetition() -> None:
    found = batch_report(FOUND, BATCHES)["contenders"]["ours-ngram-bf16"]
    assert found["tokens_per_second"] == {"median": pytest.approx(8 / 3), "min": 2, "max": 4}
    assert found["ratio_to_baseline"] == pytest.approx({"median": 2, "min": 4 / 3, "max": 3})
    assert found["tokens_per_second_by_category"] == {"x": 4, "y": 2}
    assert found["bits"] == 16


def test_a_ratio_is_to_the_baseline_that_ran_beside_it() -> None:
    found = batch_report(FOUND, BATCHES)["contenders"]["ours-plain-gguf"]
    assert found["ratio_to_baseline"] == {"median": 2, "min": 1, "max": 2}


def test_outputs_are_compared_with_the_same_engine_without_speculation() -> None:
    found = batch_report(FOUND, BATCHES)["contenders"]
    assert found["ours-ngram-bf16"]["same_as_plain"] == {"same": 2, "of": 2}
    assert found["llamacpp-ngram-bf16"]["same_as_plain"] == {"same": 1, "of": 2}
    assert found["llamacpp-plain-bf16"]["same_as_plain"] is None


def sides(entry: dict[str, object]) -> tuple[object, object]:
    return entry["over"], entry["under"]


def test_the_ratios_that_matter_name_both_sides() -> None:
    found = ratio_report(1, FOUND, BATCHES)
    plain, best = (
        found["batch1_16_bits_ours_plain_over_best_plain_peer"],
        found["batch1_16_bits_ours_best_over_best_peer"],
    )
    assert sides(plain) == ("ours-plain-bf16", "llamacpp-plain-bf16")
    assert plain["overall"] == pytest.approx({"median": 4 / 3, "min": 1, "max": 2})
    assert sides(best) == ("ours-ngram-bf16", "llamacpp-ngram-bf16")
    assert best["overall"] == pytest.approx({"median": 4 / 3, "min": 1, "max": 2})
    assert best["by_category"]["y"]["median"] == 1
    assert sides(found["batch1_4_bits_ours_best_over_best_peer"]) == ("ours-plain-gguf", "llamacpp-plain-q4_1")
    assert found["batch1_same_file_ours_plain_over_llamacpp_plain"]["overall"]["median"] == 4
    assert "batch1_8_bits_ours_best_over_best_peer" not in found
    assert "batch1_4_bits_ours_best_over_ours_plain" not in found  # that is the same contender
    assert "batch8_16_bits_ours_best_over_ours_plain" in ratio_report(8, FOUND, BATCHES)


def test_what_was_not_measured_side_by_side_is_compared_by_the_baselines() -> None:
    found = ratio_report(1, FOUND, BATCHES)["batch1_any_precision_ours_best_over_best_peer"]
    assert sides(found) == ("ours-ngram-bf16", "llamacpp-ngram-bf16")  # 2 and 3/2 of the baseline; gguf's median is 2
    found = ratio_report(1, FOUND, BATCHES)["batch1_ours_plain_gguf_over_ours_plain_bf16"]
    assert found["overall"] == {"median": 2, "min": 1, "max": 2}
    alone = FOUND | {"ours-plain-gguf": Measured(FOUND["ours-plain-gguf"].record, None)}
    assert ratio_report(1, alone, BATCHES)["batch1_ours_plain_gguf_over_ours_plain_bf16"]["overall"] is None


def test_each_precision_is_measured_with_the_baseline() -> None:
    names = [[each.name for each in members] for members in session.classes(chosen(None))]
    assert [members[0] for members in names] == ["ours-plain-bf16"] * 3
    assert sorted(name for members in names for name in members[1:]) == sorted(
        each.name for each in CONTENDERS if each.name != "ours-plain-bf16"
    )
    assert {each.engine for each in CONTENDERS} == {OURS, *PEERS} == FLAGS.keys()
    [alone] = session.classes(chosen(["openvino-plain-int8"]))
    assert [each.name for each in alone] == ["openvino-plain-int8"]


def test_what_fails_is_reported_and_the_rest_is_measured(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_install(peer: str) -> str | None:
        return "installing failed: ERROR: No matching distribution" if peer == "vllm" else None

    monkeypatch.setattr(session, "install", fake_install)
    monkeypatch.setattr(session, "prepare", lambda peer: None)
    monkeypatch.setattr(session, "HOME", script.parent)
    monkeypatch.setattr(Contender, "command", [sys.executable, str(script)])
    names = ["ours-plain-bf16", "ours-plain-int8", "llamacpp-plain-bf16", "llamacpp-ngram-bf16", "vllm"]
    contenders = [each for each in chosen(names) if each.name not in ("vllm-plain-int8", "vllm-ngram-int8")]
    prompts = [("x", [5, 6, 7]), ("y", [8, 9])]
    texts = [[9, 0, 1], [9, 2]]
    found = session.compare(contenders, prompts, [EOS], texts, Plan(max_tokens=2, repeats=2, batch_sizes=(1, 8)))
    no_vllm = "installing failed: ERROR: No matching distribution"
    assert found["left_out"] == {
        "vllm-plain-bf16": no_vllm,
        "vllm-ngram-bf16": no_vllm,
        "ours-plain-int8": "did not start: no such kernels (exit status 1)",
        "llamacpp-ngram-bf16": "stopped while decoding: MemoryError: it is too small (exit status 1)",
    }
    assert found["batch"]["1"]["contenders"].keys() == {"ours-plain-bf16", "llamacpp-plain-bf16"}
    perplexity = e  # losses of 0, 1 and 2
    assert found["perplexity"] == pytest.approx({"ours-plain-bf16": perplexity, "llamacpp-plain-bf16": perplexity})
    assert found["batch"]["8"]["contenders"].keys() == {"ours-plain-bf16"}
    assert found["batch"]["8"]["contenders"]["ours-plain-bf16"]["tokens"] == [4, 4]
    about = {"model": "none", "machine": "this", "max_tokens": 2, "repeats": 2, "threads": 2}
    text = markdown(json.loads(json.dumps(about | found)))
    assert f"- vllm-plain-bf16: {no_vllm}" in text
    assert "| llamacpp-plain-bf16 |" in text
    assert "| 2.72 |" in text
    assert "**The fastest of each engine, at any precision**" in text


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
    assert [each.name for each in chosen(["onnxruntime", "ours-plain-int8"])] == [
        "ours-plain-int8",
        "onnxruntime-plain-int4",
    ]
    with pytest.raises(ValueError, match="There is no contender 'oven'"):
        chosen(["oven"])
