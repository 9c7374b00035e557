"""Run folders: whatever happens to one, its job is run, and nothing wrong is ever taken for its rows."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from specdec import places
from specdec.measure.folders import RunFolder
from specdec.measure.rows import PromptRow
from specdec.measure.runs import (
    AXES,
    CONFIG,
    DAMAGED,
    ENVIRONMENT,
    LINES,
    ROWS,
    STEPS,
    SUMMARY,
    TRACE,
    load_run,
    load_runs,
)
from specdec.places import BusyError, UnwritableError
from specdec.prompts import PromptRecord
from tests.measure.test_runs import row

PROMPTS = [PromptRecord(f"q{index}", "kind", 'a "prompt"\n') for index in range(4)]
SETTINGS = {"a": {"b": None}, "text": "1e3", "odd": "${x} \u2028 é\n# ", "number": 1e-05}
FIGURES = {"metrics": {"tau": 1.5}}


def folder_of(path: Path) -> RunFolder:
    return RunFolder(path, PROMPTS, SETTINGS)


def begin(folder: RunFolder) -> list[PromptRow]:
    return folder.begin({**SETTINGS, "study": "x"}, {"drafter": "ngram"}, {"machine": "m"})


def run_job(path: Path) -> list[PromptRow]:
    """As a sweep does; the rows that were already there."""
    folder = folder_of(path)
    with folder.claimed():
        if folder.finished() is not None:
            return [*map(row, range(4))]
        kept = begin(folder)
        for index in range(len(kept), 4):
            folder.append([row(index)])
        folder.finish([*map(row, range(4))], FIGURES)
    return kept


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    folder = folder_of(tmp_path / "study" / "job")
    begin(folder)
    folder.append([row(0), row(1)])
    folder.append([row(2)])
    return folder.path


@pytest.fixture
def done(tmp_path: Path) -> Path:
    run_job(tmp_path / "study" / "job")
    return tmp_path / "study" / "job"


def cut(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: len(data) // 2])

    return damage


def put(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(data) and None


def flip(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        data[len(data) // 2] ^= 1
        (path / name).write_bytes(data)

    return damage


def without(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def as_folder(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        (path / name / "x").mkdir(parents=True)

    return damage


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        old = (path / LINES).read_text(encoding="utf-8").splitlines()
        (path / LINES).write_text("".join(f"{line}\n" for line in change(old)), encoding="utf-8")

    return damage


def edited(**fields: Any) -> Callable[[Path], None]:
    return lines(lambda old: [old[0], json.dumps({**json.loads(old[1]), **fields}), old[2]])


def replaced_by_a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("no folder", encoding="utf-8")


def another_version(path: Path) -> None:
    summary = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
    summary["files"]["version"] = 3
    (path / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")


def another_job(path: Path) -> None:
    text = (path / CONFIG).read_text(encoding="utf-8")
    (path / CONFIG).write_text(text.replace("'1e3'", "other").replace("1e3", "other"), encoding="utf-8")


DONE: dict[str, Callable[[Path], None]] = {
    **{f"{name} is missing": without(name) for name in (CONFIG, AXES, ENVIRONMENT, ROWS, STEPS, SUMMARY)},
    **{f"{name} is cut": cut(name) for name in (CONFIG, AXES, ENVIRONMENT, ROWS, STEPS, SUMMARY)},
    **{f"{name} is empty": put(name, b"") for name in (CONFIG, AXES, ENVIRONMENT, ROWS, STEPS, SUMMARY)},
    **{f"{name} is a folder": as_folder(name) for name in (CONFIG, ENVIRONMENT, ROWS, SUMMARY, LINES, TRACE)},
    **{f"a bit of {name} is another": flip(name) for name in (CONFIG, ROWS, STEPS)},
    "a foreign summary": put(SUMMARY, b'{"a": 1}'),
    "a foreign summary with figures": put(SUMMARY, b'{"metrics": {"tau": 1.5}}'),
    "a list for a summary": put(SUMMARY, b"[]"),
    "zeros for a summary": put(SUMMARY, bytes(300)),
    "no text": put(AXES, b"\xff\xfe{}"),
    "deep": put(SUMMARY, b"[" * 100_000),
    "a trace that was not written": put(TRACE, b"x"),
    "another version": another_version,
    "a file in its place": replaced_by_a_file,
}
UNFINISHED: dict[str, Callable[[Path], None]] = {
    **{f"{name} is missing": without(name) for name in (CONFIG, AXES, ENVIRONMENT)},
    **{f"{name} is cut": cut(name) for name in (CONFIG, AXES, ENVIRONMENT)},
    **{f"{name} is a folder": as_folder(name) for name in (CONFIG, LINES, STEPS)},
    "another job's settings": another_job,
    "a row twice": lines(lambda old: [old[0], old[0], old[1]]),
    "a row is lost": lines(lambda old: [old[0], old[2]]),
    "rows are swapped": lines(lambda old: [old[1], old[0], old[2]]),
    "two writers": lines(lambda old: [line for line in old for _ in range(2)]),
    "one row too many": lines(lambda old: [*old, *(row(index).line().strip() for index in (3, 4))]),
    "a blank line": lines(lambda old: [old[0], "", *old[1:]]),
    "foreign JSON": lines(lambda old: [old[0], '{"a": 1}', old[2]]),
    "a list": lines(lambda old: [old[0], "[]", old[2]]),
    "a cut line in the middle": lines(lambda old: [old[0], old[1][:50], old[2]]),
    "another question": edited(question_id="q7"),
    "another prompt": edited(prompt="b"),
    "text for tokens": edited(token_ids="123"),
    "true for a number": edited(seed=True),
    "no statistics": edited(stats=None),
    "one more field": edited(more=1),
    "no text": put(LINES, b"\xff\n"),
    "zeros": put(LINES, bytes(100) + b"\n"),
    "a file in its place": replaced_by_a_file,
}


@pytest.mark.parametrize("damage", DONE.values(), ids=DONE)
def test_a_done_folder_that_is_damaged_is_set_aside_and_its_job_run_again(
    done: Path, damage: Callable[[Path], None]
) -> None:
    again(done, damage)


@pytest.mark.parametrize("damage", UNFINISHED.values(), ids=UNFINISHED)
def test_an_unfinished_folder_that_is_damaged_is_set_aside_and_its_job_run_again(
    unfinished: Path, damage: Callable[[Path], None]
) -> None:
    again(unfinished, damage)


def again(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    with pytest.warns(RuntimeWarning, match=r"is kept as job\.damaged-1, and its job is run again") as told:
        assert run_job(path) == []
    assert len(told) == 1
    assert [one["index"] for one in load_run(path).rows] == [0, 1, 2, 3]
    aside = path.with_name(f"job{DAMAGED}1")
    assert os.path.lexists(aside)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(run_job(path)) == 4
        assert [run.name for run in load_runs(path.parent)] == ["job"]


def test_damages_are_numbered(done: Path) -> None:
    for number in (1, 2, 3):
        put(SUMMARY, b"")(done)
        with pytest.warns(RuntimeWarning, match=f"damaged-{number}"):
            run_job(done)


def test_settings_of_any_text_are_no_damage(unfinished: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(run_job(unfinished)) == 3
    assert {key: load_run(unfinished).config[key] for key in SETTINGS} == SETTINGS


@pytest.mark.parametrize("length", [0, 1, 40])
def test_a_cut_last_line_is_the_prompt_in_flight(unfinished: Path, length: int) -> None:
    with (unfinished / LINES).open("a", encoding="utf-8") as file:
        file.write(row(3).line()[:length])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_job(unfinished) == [row(0), row(1), row(2)]
    assert [one["index"] for one in load_run(unfinished).rows] == [0, 1, 2, 3]


def test_a_folder_that_was_never_filled_is_no_damage(tmp_path: Path) -> None:
    for name in ("empty", "begun"):
        (tmp_path / name).mkdir()
    (tmp_path / "begun" / CONFIG).write_text("a: [", encoding="utf-8")
    (tmp_path / "begun" / ".0123.part").write_text("half", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_job(tmp_path / "empty") == run_job(tmp_path / "begun") == run_job(tmp_path / "new") == []
    assert not list((tmp_path / "begun").glob(".*"))


def test_one_process_at_a_time_writes_a_folder(tmp_path: Path) -> None:
    refusals: list[str] = []

    def second() -> None:
        try:
            with folder_of(tmp_path / "job").claimed():
                refusals.append("none")
        except BusyError as error:
            refusals.append(str(error))

    with folder_of(tmp_path / "job").claimed(), folder_of(tmp_path / "other").claimed():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert f"{tmp_path / 'job'}: Process {os.getpid()} on " in refusals[0]
    second()
    assert refusals[1] == "none"


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with places.claimed(tmp_path / "lock"):
            os._exit(9)
    os.waitpid(child, 0)
    with places.claimed(tmp_path / "lock"):
        pass


CHANGES = ("write", "fsync", "replace", "open", "mkdir", "truncate", "unlink")
"""The system's calls that change files."""


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ending(patch: pytest.MonkeyPatch, at: int, end: Callable[[], None]) -> list[str]:
    """`end` comes in place of the system's call number `at` that changes a file; of what it should write, half is
    written. Returns the calls so far."""
    calls: list[str] = []
    real = {name: getattr(os, name) for name in CHANGES}

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if name == "open" and not (len(args) > 1 and args[1] & (os.O_WRONLY | os.O_RDWR)):
                return real[name](*args, **options)
            calls.append(name)
            if len(calls) - 1 == at:
                if name == "write":
                    real[name](args[0], bytes(args[1])[: len(args[1]) // 2])
                end()
            return real[name](*args, **options)

        return call

    for name in CHANGES:
        patch.setattr(os, name, counted(name))
    return calls


def four_prompts(path: Path, on_written: Callable[[int], None]) -> None:
    """A whole job, which tells how many prompts are on the disk."""
    folder = folder_of(path)
    with folder.claimed():
        begin(folder)
        for index in range(4):
            folder.append([row(index)])
            on_written(index + 1)
        folder.finish([*map(row, range(4))], FIGURES)


def check_goes_on(path: Path, least: int) -> None:
    """No damage, all prompts but the one in flight, and the end of an uninterrupted job."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = run_job(path)
    assert [one.index for one in kept] == list(range(len(kept)))
    assert len(kept) in (least, least + 1)  # the last one may be written whole and not yet told
    assert [(one["index"], one["token_ids"]) for one in load_run(path).rows] == [(i, [1, 2, 3]) for i in range(4)]


def test_a_full_disk_at_any_write_loses_the_prompt_in_flight_only(tmp_path: Path) -> None:
    calls, at = [""], 0
    while len(calls) >= at:
        written, refusal = [0], "No space left on device"
        with pytest.MonkeyPatch.context() as patch:
            calls = ending(patch, at, full_disk)
            try:
                four_prompts(tmp_path / str(at) / "job", written.append)
            except UnwritableError as error:
                refusal = str(error)
        assert "No space left on device" in refusal
        check_goes_on(tmp_path / str(at) / "job", written[-1])
        at += 1
    assert at > 15


def test_a_kill_at_any_write_loses_the_prompt_in_flight_only(tmp_path: Path) -> None:
    at, status = 0, -1
    while status:
        path, told = tmp_path / str(at) / "job", tmp_path / f"{at}.txt"
        told.write_bytes(b"")
        child = os.fork()
        if not child:
            with told.open("ab", buffering=0) as file, pytest.MonkeyPatch.context() as patch:
                ending(patch, at, killed)
                four_prompts(path, lambda count: file.write(b".") and None)
                os._exit(0)
        _, status = os.waitpid(child, 0)
        check_goes_on(path, len(told.read_bytes()))
        at += 1
    assert at > 15


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UnwritableError, match="Cannot write"):
        run_job(tmp_path / "file" / "job")


def test_a_report_leaves_a_damaged_run_out_and_says_so(done: Path) -> None:
    shutil.copytree(done, done.with_name("other"))
    put(SUMMARY, b"{")(done)
    with pytest.warns(RuntimeWarning, match=r"job/summary\.json cannot be read.*It is left out"):
        assert [run.name for run in load_runs(done.parent)] == ["other"]
    assert (done / SUMMARY).read_bytes() == b"{"


def test_a_folder_of_before_the_seals_is_read(done: Path) -> None:
    summary = json.loads((done / SUMMARY).read_text(encoding="utf-8"))
    del summary["files"]
    summary["metrics"]["prompts"] = 4
    (done / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")
    assert load_run(done).status == "done"
    assert len(run_job(done)) == 4


def test_a_row_is_read_as_it_was_written() -> None:
    for one in (row(0), row(1, plain=[1, 2, 3])):
        assert PromptRow.parse(one.line()) == one
        assert json.loads(one.line()) == asdict(one)
