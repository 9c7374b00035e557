"""The program in which chat templates run; `specdec.prompts.templates` starts it and talks to it.

A template is a program from a file, and may ask for any amount of time and memory in a single operation, which no
thread can interrupt. Here the system's own limits hold: a timer over processor time, whose signal nobody handles, and
a ceiling on the address space. This file is started by its path. It imports jinja2 and nothing of specdec, so that it
is small and begins in 0.05 s.

A job is 8 bytes of length and `marshal` of (operation, template, variables, limits), from a parent of the same Python.
A memory limit of 0 is none: the parent watches then.
An answer is b"T" (the text), b"E" (an error) or b"L" (an error, and the last answer of this process), 8 bytes of length
and UTF-8.
"""

from __future__ import annotations

import json
import marshal
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

if __name__ == "__main__":
    sys.path += sys.argv[1:]  # where jinja2 lies: it runs without site-packages, user folders and their hooks

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

LONGEST_MESSAGE = 1000


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: what the assistant wrote. It is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Macro) -> str:
        return caller()


class _Dict:
    """`dict(…)` and `dict.fromkeys(…)`, without the class, whose attributes lead out of the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace(…)`, which keeps no name that begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `namespace(self=…)` is allowed
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot keep the name {name!r}")


def _raise_exception(message: Any) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> ImmutableSandboxedEnvironment:
    """What a chat template may use: the same as under transformers' `apply_chat_template`."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_Dict(), namespace=_Namespace
    )
    return made


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    return environment().from_string(template)


def _render(template: str, variables: dict[str, Any], characters: int) -> str:
    pieces, length = [], 0
    for piece in _compiled(template).generate(**variables):
        length += len(piece)
        if length > characters:
            raise _TooLong(f"it makes more than {characters} characters")
        pieces.append(piece)
    return "".join(pieces)


def _names(template: str, variables: dict[str, Any], characters: int) -> str:
    """The variables that a template reads, one a line."""
    return "\n".join(sorted(meta.find_undeclared_variables(environment().parse(template))))


class _TooLong(Exception):
    """More output than the job allows."""


OPERATIONS: dict[str, Callable[[str, dict[str, Any], int], str]] = {"render": _render, "names": _names}


def _answer(job: tuple[str, str, dict[str, Any], tuple[float, int, int]]) -> tuple[bytes, bytes]:
    """Status and text."""
    operation, template, variables, (seconds, memory, characters) = job
    if memory:
        _limit_memory(_mapped() + memory)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return b"T", OPERATIONS[operation](template, variables, characters).encode()
    except MemoryError:
        return b"L", f"it takes more than {f'{memory >> 20} MB of' if memory else 'the'} memory".encode()
    except RecursionError:
        return b"L", b"it is nested, or calls itself, too deeply"
    except (jinja2.TemplateError, _TooLong) as error:
        return b"E", _words(error)
    except Exception as error:
        return b"E", type(error).__name__.encode() + b": " + _words(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if memory:
            _limit_memory(resource.RLIM_INFINITY)


def _words(error: Exception) -> bytes:
    line = getattr(error, "lineno", None)
    where = f" (line {line} of the template)" if line is not None else ""
    return f"{str(error)[:LONGEST_MESSAGE]}{where}".encode(errors="replace")


def _limit_memory(size: int) -> None:
    """Of the address space, in bytes; never above what the user's own limit leaves."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY and (size == resource.RLIM_INFINITY or size > most):
        size = most
    resource.setrlimit(resource.RLIMIT_AS, (size, most))


def _mapped() -> int:
    """Bytes of address space in use."""
    return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()


def _jobs(source: BinaryIO) -> Iterator[Any]:
    while len(head := source.read(8)) == 8:
        yield marshal.loads(source.read(int.from_bytes(head, "little")))


def main() -> None:
    """Answers jobs until the parent closes its end, or a job has left its marks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    out = sys.stdout.buffer
    for job in _jobs(sys.stdin.buffer):
        status, text = _answer(job)
        out.write(status + len(text).to_bytes(8, "little") + text)
        out.flush()
        if status == b"L":
            return


if __name__ == "__main__":
    main()
