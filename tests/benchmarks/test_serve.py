"""Servers under load: command lines, what is read out of the tools' files, rounds, tables; with tools and servers that
only pretend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.worker import WorkerError
from benchmarks.serve import acceptance, load, runs, session
from benchmarks.serve.clock import TICK, share, used, watched
from benchmarks.serve.contenders import MODEL, Contender, Limits, chosen
from benchmarks.serve.load import Goals, Load, Texts
from benchmarks.serve.process import Server
from benchmarks.serve.session import Plan
from benchmarks.serve.table import acceptance_rows, markdown
from specdec.testing.server import COUNTED, drafts_counted, free_port

SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        text = f'vllm:spec_decode_num_drafts_total{{engine="0"}} {10 * Handler.asked}\\n'
        text += f'vllm:spec_decode_num_draft_tokens_total{{engine="0"}} {40 * Handler.asked}\\n'
        text += f'vllm:spec_decode_num_accepted_tokens_total{{engine="0"}} {5 * Handler.asked}\\n'
        self.answer(text if self.path == "/metrics" else "")

    def do_POST(self):
        Handler.asked += 1
        with open(sys.argv[2], "a") as file:
            file.write(sys.argv[3] + self.path + chr(10))
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.answer(body["messages"][0]["content"])

    def answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words):
        pass

if sys.argv[3] == "vllm-plain":
    sys.exit("no such processor")
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
TOOL = """
import json, os, pathlib, sys, urllib.request
words = sys.argv[1:]
url = words[words.index("--url" if "--url" in words else "--base-url") + 1]
body = {"messages": [{"role": "user", "content": "x"}]}
urllib.request.urlopen(urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode())).read()
os.makedirs("out", exist_ok=True)
told = json.loads(os.environ["TOLD"])
told["request_count"]["avg"] = sum(1 for _ in open("texts.jsonl"))
told["completed"] = sum(1 for _ in open("texts.jsonl"))
for name in ("out/profile_export_aiperf.json", "bench.json"):
    pathlib.Path(name).write_text(json.dumps(told))
"""


def aiperf_says(**others: Any) -> dict[str, Any]:
    """A result file, as aiperf 0.13 writes it, without what nobody reads."""
    times = {"unit": "ms", "avg": 120.0, "p50": 100.0, "p95": 190.0, "p99": 199.0}
    return {
        "request_count": {"unit": "requests", "avg": 4.0},
        "output_token_throughput": {"unit": "tokens/sec", "avg": 50.0},
        "total_output_tokens": {"unit": "tokens", "avg": 200.0},
        "benchmark_duration": {"unit": "sec", "avg": 4.0},
        "good_request_count": {"unit": "requests", "avg": 3.0},
        "goodput": {"unit": "requests/sec", "avg": 0.75},
        "time_to_first_token": times,
        "inter_token_latency": {**times, "p50": 20.0},
        "inter_chunk_latency": {**times, "p50": 30.0},
        "total_spec_decode_steps": {"unit": "count", "avg": 10.0},
        "total_draft_tokens": {"unit": "tokens", "avg": 40.0},
        "total_accepted_draft_tokens": {"unit": "tokens", "avg": 5.0},
        "error_summary": [],
        "start_time": "2026-11-27T00:55:05.250000",
        "end_time": "2026-11-27T00:55:18.500000",
        **others,
    }


def vllm_says() -> dict[str, Any]:
    """The part of a result file of `vllm bench serve` 0.32 that is read."""
    figures = {"spec_decode_num_drafts": 10, "spec_decode_draft_tokens": 40, "spec_decode_accepted_tokens": 5}
    return {"completed": 4, "failed": 0, "spec_decode_acceptance_rate": 12.5, **figures}


def test_a_result_file_of_aiperf_is_read() -> None:
    found = load.read(aiperf_says(), asked=4)
    assert (found["tokens_per_second"], found["goodput"], found["good"]) == (50, 0.75, 0.75)
    assert found["drafts"] == [10, 40, 5]
    assert found["ttft_ms"] == {"p50": 100, "p95": 190, "p99": 199}
    assert (found["itl_ms"]["p50"], found["chunk_ms"]["p50"]) == (20, 30)
    first, last = load.window(aiperf_says())
    assert last - first == 13.25


def test_answers_that_say_nothing_of_drafts_and_no_good_request() -> None:
    told = aiperf_says()
    for name in ("good_request_count", "goodput", *load.DRAFTS):
        del told[name]
    found = load.read(told, asked=4)
    assert (found["drafts"], found["goodput"]) == (None, 0)


@pytest.mark.parametrize("told", [aiperf_says(error_summary=[{"message": "refused", "count": 1}]), aiperf_says()])
def test_a_run_with_a_failed_call_is_no_result(told: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"4 of \d calls were answered"):
        load.read(told, asked=4 if told["error_summary"] else 5)


def test_a_result_file_of_vllm_is_read() -> None:
    assert acceptance.read(vllm_says(), asked=4) == [10, 40, 5]
    assert acceptance.read({"completed": 4}, asked=4) is None
    with pytest.raises(ValueError, match="4 of 5 calls"):
        acceptance.read(vllm_says(), asked=5)


def test_what_a_server_counts_between_two_looks() -> None:
    def look(prefix: str, *counts: float) -> dict[str, float]:
        return {f"{prefix}:{name}_total": count for name, count in zip(COUNTED, counts, strict=True)}

    assert acceptance.counted(look("vllm", 1, 5, 2), look("vllm", 4, 20, 9)) == [3, 15, 7]
    assert acceptance.counted(look("llamacpp", 0, 0, 0), look("llamacpp", 4, 20, 9)) == [4, 20, 9]
    assert acceptance.counted({"vllm:prompt_tokens_total": 3}, {"vllm:prompt_tokens_total": 4}) is None


def test_the_mean_of_the_servers_own_clock() -> None:
    name = "vllm:time_to_first_token_seconds"
    before, after = {f"{name}_sum": 1.0, f"{name}_count": 2}, {f"{name}_sum": 2.5, f"{name}_count": 7}
    assert acceptance.mean_ttft_ms(before, after) == pytest.approx(300)
    assert acceptance.mean_ttft_ms(after, after) is None
    assert acceptance.mean_ttft_ms({}, {}) is None


TEXTS = Texts(["a", 'b "c"\n'], 24, Path("/tokenizer"))


def after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_a_closed_loop_has_clients_and_an_open_one_a_rate_and_a_seed() -> None:
    closed = load.command(Load(clients=8), TEXTS, "http://here", 3, Goals(900, 40.5))
    opened = load.command(Load(rate=0.5), TEXTS, "http://here", 3, Goals())
    assert after(closed, "--concurrency") == "8"
    assert "--request-rate" not in closed
    assert [after(opened, name) for name in ("--request-rate", "--arrival-pattern", "--random-seed")] == [
        "0.5",
        "poisson",
        "3",
    ]
    assert "--concurrency" not in opened
    assert after(closed, "--goodput") == "time_to_first_token:900 inter_token_latency:40.5"
    assert after(closed, "--request-count") == "2"
    assert json.loads(after(closed, "--extra-inputs")) == {"max_completion_tokens": 24, "temperature": 0}
    assert [Load(clients=8).name, Load(rate=0.5).name] == ["clients=8", "rate=0.5"]


def test_both_tools_read_one_file() -> None:
    told = [json.loads(line) for line in load.file_of(TEXTS.prompts).splitlines()]
    assert told == [{"text": text, "prompt": text} for text in TEXTS.prompts]
    words = acceptance.command(TEXTS, "http://here", clients=2)
    assert [after(words, name) for name in ("--num-prompts", "--custom-output-len", "--temperature")] == [
        "2",
        "24",
        "0",
    ]


def test_every_server_gets_the_same_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.serve.contenders._packages", lambda peer, name: f"/{peer}/{name}")
    limits = Limits(threads=3, sequences=4, context=512)
    ours, vllm, llamacpp = (Contender(engine, "ngram").command(81, limits) for engine in ("ours", "vllm", "llamacpp"))
    assert {"port=81", "drafter=ngram", "precision=bfloat16", "engine.max_num_seqs=4"} < set(ours)
    assert "drafter=none" in Contender("ours", "plain").command(81, limits)
    assert [after(vllm, name) for name in ("--port", "--max-num-seqs", "--max-model-len")] == ["81", "4", "512"]
    assert json.loads(after(vllm, "--speculative-config"))["method"] == "ngram"
    assert [after(llamacpp, name) for name in ("--port", "--parallel", "--ctx-size", "--threads", "--spec-type")] == [
        *("81", "4", "2048", "3", "ngram-simple")
    ]
    for engine in ("vllm", "llamacpp"):
        assert not any("spec" in word for word in Contender(engine, "plain").command(81, limits))
    assert Contender("ours", "plain").environment(3)["OMP_NUM_THREADS"] == "3"


def test_contenders_are_chosen_by_name_or_engine() -> None:
    assert [each.name for each in chosen(["vllm", "ours-head"])] == ["ours-head", "vllm-plain", "vllm-ngram"]
    with pytest.raises(ValueError, match="There is no contender 'sglang'"):
        chosen(["sglang"])


def test_the_share_of_the_processors_counts_what_was_added_inside_the_window() -> None:
    looks = [(0.0, 0.0), (1.0, 5.0), (2.0, 5.5), (3.0, 4.5), (4.0, 5.0), (9.0, 30.0)]  # one process ends at 3
    assert share(looks, 1, 4, processors=2) == pytest.approx(1 / 6)
    assert share(looks, 5, 6, processors=2) == 0


def test_processor_time_of_a_program_and_its_children(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, stdin=-1, stdout=-1, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # the grandchild has burnt its time, and waits
        assert used(process.pid) >= 0.3 - 2 * TICK  # the system counts whole ticks
        process.stdin.close()
    status, looks = watched([sys.executable, "-c", "import sys; sys.exit(3)"], tmp_path, os.environ, tmp_path / "log")
    assert status == 3
    assert all(seconds >= 0 for _, seconds in looks)


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Servers and tools that pretend; the file tells who asked whom for what."""
    server, tool, calls = (tmp_path / name for name in ("server.py", "tool.py", "calls"))
    server.write_text(SERVER, encoding="utf-8")
    tool.write_text(TOOL, encoding="utf-8")

    def start(self: Contender, port: int, limits: Limits) -> list[str]:
        return [sys.executable, str(server), str(port), str(calls), self.name]

    def call(texts: Texts, url: str, clients: int) -> list[str]:
        return [sys.executable, str(tool), "--base-url", url]

    monkeypatch.setattr(Contender, "command", start)
    monkeypatch.setattr(Contender, "environment", lambda self, threads: {})
    monkeypatch.setattr(session, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(session, "install", lambda peer: None)
    monkeypatch.setattr(session, "prepare", lambda peer: None)
    monkeypatch.setattr(session, "versions", lambda environments: dict.fromkeys(environments, "1"))
    monkeypatch.setattr(
        load, "command", lambda kind, texts, url, seed, goals: [sys.executable, str(tool), "--url", url]
    )
    monkeypatch.setattr(acceptance, "command", call)
    monkeypatch.setenv("TOLD", json.dumps(aiperf_says() | vllm_says()))
    return calls


def test_a_server_that_is_not_asked_is_stopped(tried: Path, tmp_path: Path) -> None:
    port = free_port()
    command = Contender("ours", "plain").command(port, Limits())
    with closing(Server(command, port, {}, tmp_path / "log")) as server:
        for _ in range(2):
            found = os.waitid(os.P_PID, server._process.pid, os.WSTOPPED | os.WNOWAIT)
            assert found is not None
            assert found.si_status == signal.SIGSTOP
            server.ask("x", max_tokens=1)
        with server:
            assert drafts_counted(server.metrics()) == [20, 80, 10]


def test_a_server_that_cannot_start_says_why(tried: Path, tmp_path: Path) -> None:
    port = free_port()
    with pytest.raises(WorkerError, match=r"no such processor \(exit status 1\)"):
        Server(Contender("vllm", "plain").command(port, Limits()), port, {}, tmp_path / "log")


def test_a_tool_that_fails_says_why(tmp_path: Path) -> None:
    for program, said in (("import sys; sys.exit('no tokenizer')", "no tokenizer"), ("print('nothing')", "nothing")):
        with pytest.raises(WorkerError, match=said):
            runs.ran([sys.executable, "-c", program], TEXTS, "out.json", tmp_path / "log")


@pytest.fixture
def report(tried: Path) -> dict[str, Any]:
    plan = Plan((Load(clients=1), Load(rate=2.0)), rounds=2, requests=4, max_tokens=8)
    kept = list[str]()
    contenders = chosen(["ours-plain", "ours-ngram", "vllm-plain"])
    session.compare(contenders, ["a", "b", "c"], Limits(), plan, lambda found: kept.append(json.dumps(found)))
    reports = [json.loads(text) for text in kept]
    assert [(found["rounds"], len(found["loads"]["rate=2"]["ours-ngram"])) for found in reports] == [
        (1, 1),
        (2, 2),
        (2, 2),
    ]
    return {"model": MODEL, **asdict(Limits()), **asdict(plan), **reports[-1]}


def test_servers_take_turns_and_the_first_changes(report: dict[str, Any], tried: Path) -> None:
    asked = [line.partition("/")[0] for line in tried.read_text(encoding="utf-8").splitlines()]
    warm_up, measured = asked[:2], asked[2:]
    assert warm_up == ["ours-plain", "ours-ngram"]
    assert measured == [
        *("ours-plain", "ours-ngram", "ours-ngram", "ours-plain"),
        *("ours-ngram", "ours-plain", "ours-plain", "ours-ngram"),
        "ours-ngram",  # vllm bench serve
    ]


def test_rounds_have_other_prompts() -> None:
    plan = Plan((), requests=2)
    assert [list(plan.texts(["a", "b", "c"], turn).prompts) for turn in range(3)] == [
        ["a", "b"],
        ["c", "a"],
        ["b", "c"],
    ]


def test_a_load_has_a_request_for_every_client() -> None:
    loads = (Load(clients=1), Load(clients=8), Load(rate=1.0))
    with pytest.raises(ValueError, match=r"8 clients .* a load has 6 requests\. Raise --requests"):
        Plan(loads, requests=6)
    assert Plan(loads, requests=8).requests == 8
    assert Plan(loads, requests=2, rounds=0).rounds == 0  # `vllm bench serve` alone


def test_what_the_tools_say_of_drafts_stands_beside_what_the_server_counted(report: dict[str, Any]) -> None:
    assert acceptance_rows(report) == [
        ("aiperf", "ours-plain", [40, 160, 20], [40, 160, 20]),
        ("aiperf", "ours-ngram", [40, 160, 20], [40, 160, 20]),
        ("vllm bench serve", "ours-ngram", [10, 40, 5], [10, 40, 5]),
    ]


def test_the_page_tells_medians_ranges_ratios_and_who_is_left_out(report: dict[str, Any]) -> None:
    for turn, speed in enumerate((60.0, 100.0)):
        report["loads"]["clients=1"]["ours-ngram"][turn]["tokens_per_second"] = speed
        report["loads"]["clients=1"]["ours-plain"][turn]["server_mean_ttft_ms"] = 90 + turn
    text = markdown(report)
    row = "| ours-ngram | 80.0 (60.0 to 100.0) | 1.60 (1.20 to 2.00) | 0.75 (0.75 to 0.75) "
    assert f"{row}| 100 / 190 / 199 | 20 / 190 / 199 |  | 0% |" in text
    assert "| 20 / 190 / 199 | 120, 90 | 0% |" in text
    assert "### Closed loop, clients: 1" in text
    assert "### 2 requests/s, a Poisson process" in text
    assert "| vllm bench serve | ours-ngram | 10, 40, 5 | 10, 40, 5 |" in text
    assert "- vllm-plain: did not start: no such processor (exit status 1)" in text


def test_a_server_that_fails_under_load_is_left_out_and_the_others_finish(
    tried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(server: Server, kind: Load, texts: Texts, seed: int, *others: Any) -> dict[str, Any]:
        if "ours-head" in str(server._process.args) and seed == 1:
            raise ValueError("3 of 4 calls were answered")
        return {"tokens_per_second": 1.0, "drafts": None}

    monkeypatch.setattr(session, "loaded", loaded)
    plan = Plan((Load(clients=1),), rounds=2, requests=4)
    kept = list[dict[str, Any]]()
    session.compare(chosen(["ours-plain", "ours-head"]), ["a"], Limits(), plan, kept.append)
    found = kept[-1]
    assert found["left_out"] == {"ours-head": "clients=1: 3 of 4 calls were answered"}
    assert {name: len(rows) for name, rows in found["loads"]["clients=1"].items()} == {"ours-plain": 2}


def test_a_tool_that_cannot_be_installed_is_told(tried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "install", lambda peer: "installing failed" if peer != "aiperf" else None)
    able, left_out = session.ready(chosen(["ours-plain", "vllm"]))
    assert [each.name for each in able] == ["ours-plain"]
    assert left_out.keys() == {"vllm-plain", "vllm-ngram", session.BENCH}
    monkeypatch.setattr(session, "install", lambda peer: "installing failed")
    with pytest.raises(WorkerError, match="installing failed"):
        session.ready(chosen(["ours-plain"]))
