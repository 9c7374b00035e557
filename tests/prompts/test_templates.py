"""Chat templates are programs: they run within limits, in a process that they may end, and harm nobody else."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from specdec.prompts import templates
from specdec.prompts.templates import Limits, TemplateError, names, render

TIGHT = Limits(seconds=0.3, memory=64 << 20, characters=10_000)

TOO_MUCH_MEMORY = {
    "product": "{{ 'x' * 10**9 }}",
    "list product": "{{ ([1] * 10**10)|length }}",
    "center": "{{ 'x'|center(10**10) }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "percent width": "{{ '%1000000000d' % 3 }}",
    "format width": "{{ '{:>1000000000}'.format(3) }}",
    "format filter": "{{ '%*d'|format(10**9, 3) }}",
    "doubling": "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "replace": "{{ ('x' * 10**5).replace('x', 'y' * 10**5)|length }}",
    "join": "{{ ('y' * 10**5).join('x' * 10**5)|length }}",
    "indent": "{{ [3]|tojson(indent=10**10) }}",
    "wide list": "{{ ('x' * 10**8)|list|length }}",
    "bytes": "{{ (3).to_bytes(10**10, 'little')|length }}",
    "filled batch": "{{ [1]|batch(10**9, 'x')|list|length }}",
}
TOO_MUCH_TIME = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops in a filter": "{{ range(99999)|map('string')|join|list|sort|join|wordwrap(1)|length }}" * 50,
    "lorem ipsum": "{{ lipsum(n=10**9) }}",
    "power": "{{ 3 ** (10**8) }}",
    "remainder": "{{ (7 ** (10**6)) % (3 ** (10**6 // 2) - 1) > 0 }}" * 9,
    "sum": "{{ range(99999)|sum(start=range(99999)|sum) }}" * 999,
    "search": "{{ ('a' * 10**6 ~ 'b') in ('a' * 2 * 10**6) }}" * 999,
}
TOO_DEEP = {
    "macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "sum of many": "{{ 1" + " + 1" * 20000 + " }}",
    "blocks": "{% if x %}" * 3000 + "{% endif %}" * 3000,
    "caller": "{% macro f() %}{% call f() %}{{ caller }}{% endcall %}{% endmacro %}{{ f() }}",
}
TOO_LONG = {
    "one piece": "{{ 'x' * 10**6 }}",
    "many pieces": "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "of the messages": "{% for i in range(9999) %}{{ messages }}{% endfor %}",
}


def raises(template: str, limits: Limits = TIGHT) -> str:
    with pytest.raises(TemplateError) as caught:
        render(template, {"messages": [{"role": "user", "content": "Hello"}]}, limits)
    return str(caught.value)


@pytest.mark.parametrize("template", TOO_MUCH_MEMORY.values(), ids=TOO_MUCH_MEMORY.keys())
def test_memory_has_a_limit(template: str) -> None:
    assert raises(template, Limits(seconds=20, memory=64 << 20)) == "it takes more than 64 MB of memory"


@pytest.mark.parametrize("template", TOO_MUCH_TIME.values(), ids=TOO_MUCH_TIME.keys())
def test_time_has_a_limit_also_inside_one_operation(template: str) -> None:
    assert raises(template, Limits(seconds=0.2)) == "it takes more than 0.2 s of processor time"


@pytest.mark.parametrize("template", TOO_DEEP.values(), ids=TOO_DEEP.keys())
def test_depth_has_a_limit(template: str) -> None:
    assert raises(template, Limits()) == "it is nested, or calls itself, too deeply"


@pytest.mark.parametrize("template", TOO_LONG.values(), ids=TOO_LONG.keys())
def test_output_has_a_limit(template: str) -> None:
    assert "it makes more than 10" in raises(template)


def test_output_may_be_as_long_as_the_messages() -> None:
    long = "x" * 3_000_000
    assert render("{{ a }}|{{ a }}", {"a": long}) == f"{long}|{long}"


def test_a_range_has_a_limit() -> None:
    assert "Range too big" in raises("{% for i in range(10**9) %}{% endfor %}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('No system role here.') }}", "No system role here."),
        ("{{ messages[0].name.first }}", "'dict object' has no attribute 'name'"),
        ("{{ messages[3]['role'] }}", "list object has no element 3"),
        ("{{ 'a' + messages }}", 'TypeError: can only concatenate str (not "list") to str'),
        ("{{ 'a' | nothing }}", "No filter named 'nothing'. (line 1 of the template)"),
        ("a\n{% if %}", "Expected an expression, got 'end of statement block' (line 2 of the template)"),
        ("{% include 'other' %}", "TypeError: no loader for this environment specified"),
        ("{{ 1 // 0 }}", "ZeroDivisionError: integer division or modulo by zero"),
        ("{{ '\\ud800' }}", "UnicodeEncodeError"),
        ("{{ raise_exception('x' * 10**6) }}", "x" * 1000),
        ("{{ namespace(__init__=1) }}", "a namespace cannot keep the name '__init__'"),
        ("{{ ''.__class__.mro() }}", "access to attribute '__class__' of 'str' object is unsafe."),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe."),
        ("{{ strftime_now.__globals__.x }}", "access to attribute '__globals__' of 'function' object is unsafe."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_template_is_said(template: str, message: str) -> None:
    assert raises(template).startswith(message)


def test_a_process_that_somebody_ended_is_started_again() -> None:
    assert render("a{{ x }}", {"x": 1}) == "a1"
    running = templates._process._running
    assert running is not None
    os.kill(running.pid, signal.SIGSEGV)
    assert render("b{{ x }}", {"x": 1}) == "b1"


def test_a_template_that_ends_its_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a defect of an interpreter or of a library in C would."""
    fatal = "import os, sys; sys.stdin.buffer.read(8); os.abort()"
    templates._process.close()
    monkeypatch.setattr(templates, "WORKER", fatal)
    monkeypatch.setattr(templates, "OPTIONS", ("-I", "-S", "-B", "-c"))
    assert raises("a") == "it ended the process that ran it (signal 6)"
    monkeypatch.undo()
    assert render("b", {}) == "b"


def test_after_every_failure_the_next_template_runs() -> None:
    for hostile in (TOO_MUCH_MEMORY["product"], TOO_MUCH_TIME["power"], TOO_DEEP["macro"], TOO_LONG["one piece"]):
        raises(hostile)
        assert render("{{ a }}", {"a": 1}) == "1"


def test_plain_values_arrive_as_they_are() -> None:
    values = [None, True, 3, -(2**80), 0.1, float("inf"), "é🙂\x00", (1, "a"), {"b": [1], 2: (3,)}]
    assert render("{{ values }}", {"values": values}) == str(values)


def test_threads_get_their_own_texts() -> None:
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda n: render("{{ n }}:{{ 'x' * n }}", {"n": n}), range(200)))
    assert texts == [f"{n}:{'x' * n}" for n in range(200)]


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(templates, "_read_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render("first", {})
    assert render("second", {}) == "second"


def test_no_answer_in_time_is_said() -> None:
    assert raises(TOO_MUCH_TIME["nested loops"], Limits(seconds=60, wait=0.2)) == "it gave no answer in 0.2 s"
    assert render("next", {}) == "next"


def test_a_forked_child_has_a_process_of_its_own() -> None:
    """The lock of the parent's is held, as by a thread that is not in the child."""
    render("a", {})
    parents = templates._process._running
    assert parents is not None
    with templates._process._lock:
        child = os.fork()
        if child == 0:
            ours = templates._process
            good = render("b", {}) == "b" and ours._running is not None and ours._running.pid != parents.pid
            ours.close()
            os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert render("c", {}) == "c"
    assert templates._process._running is parents


def test_the_process_knows_no_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "secret")
    templates._process.close()
    render("a", {})
    running = templates._process._running
    assert running is not None
    with open(f"/proc/{running.pid}/environ", "rb") as told:
        assert b"API_TOKEN" not in told.read()


def test_the_time_zone_is_the_programs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    templates._process.close()
    try:
        assert render("{{ strftime_now('%z|%Z') }}", {}) == "|"  # a local time, which names no zone
        hours = {zone: _hour(zone, monkeypatch) for zone in ("UTC", "UTC-12")}
        assert (hours["UTC-12"] - hours["UTC"]) % 24 in (11, 12, 13)
    finally:
        monkeypatch.undo()
        templates._process.close()


def _hour(zone: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("TZ", zone)
    templates._process.close()
    return int(render("{{ strftime_now('%H') }}", {}))


def test_it_starts_again_after_it_was_closed() -> None:
    templates._process.close()
    templates._process.close()
    assert render("a", {}) == "a"


@pytest.mark.parametrize("name", ["product", "doubling", "wide list"])
def test_where_a_process_cannot_limit_its_memory_it_is_watched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    templates._process.close()
    monkeypatch.setattr(templates, "LIMITS_MEMORY", False)
    assert render("{{ a }}", {"a": 1}) == "1"
    assert raises(TOO_MUCH_MEMORY[name], Limits(seconds=20, memory=64 << 20)) == "it takes more than 64 MB of memory"
    assert render("{{ a }}", {"a": 2}) == "2"
    assert raises(TOO_MUCH_TIME["nested loops"], Limits(seconds=0.2)) == "it takes more than 0.2 s of processor time"


def test_an_interrupt_of_the_terminal_is_not_for_the_process() -> None:
    render("a", {})
    running = templates._process._running
    assert running is not None
    os.kill(running.pid, signal.SIGINT)
    assert render("b", {}) == "b"
    assert templates._process._running is running
    assert os.getsid(running.pid) != os.getsid(0)


def test_where_no_process_starts_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    templates._process.close()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert raises("a").startswith("the process for it cannot be started: [Errno 2]")
    monkeypatch.undo()
    assert render("a", {}) == "a"


def test_names_are_those_that_a_template_reads() -> None:
    template = (
        "{% set a = 1 %}{{ a }}{% for m in messages %}{{ m.role }}{% endfor %}{% if tools is defined %}{% endif %}"
    )
    assert names(template) == {"messages", "tools"}
    assert names("none") == frozenset()
    assert names("{% set think = think|default(true) %}{% if think %}{% endif %}") == {"think"}
    assert names("{% macro f(a) %}{{ a }}{{ b }}{% endmacro %}{{ namespace(c=1).c }}") == {"b"}
    with pytest.raises(TemplateError, match="unexpected"):
        names("{{ }")


def test_the_process_ends_with_the_program() -> None:
    """Also when the program is killed: it reads the end of its input."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        render("a", {})
        running = templates._process._running
        os.write(write, str(running.pid if running is not None else 0).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(write)
    worker = int(os.read(read, 20))
    os.waitpid(child, 0)
    os.close(read)
    ended = threading.Event()
    for _ in range(2000):
        if not os.path.exists(f"/proc/{worker}") or _is_zombie(worker):
            return
        ended.wait(0.005)
    pytest.fail(f"process {worker} goes on without its parent, {sys.executable}")


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as told:
            return told.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
