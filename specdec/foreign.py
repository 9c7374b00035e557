"""The one place where errors of other people's code become ours, with what was tried and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from specdec.errors import SpecdecError

STOPS = (KeyboardInterrupt, SystemExit)
"""What a user means for the whole program. Everything else that a plug-in raises is its own affair: a panic in native
code reaches Python as a BaseException that is no Exception."""
LONGEST = 300
"""Characters of a foreign message that are passed on."""

PANIC = "PanicException"
"""What PyO3 makes of a Rust panic: no `Exception`, and a class that cannot be imported."""


@contextmanager
def foreign(error: type[SpecdecError], doing: str, remedy: str = "") -> Iterator[None]:
    """Whatever another library raises inside the block is raised as `error`, with its cause.

    Our own errors pass, and so does what stops a program (KeyboardInterrupt, SystemExit). A panic of a library in Rust
    looks like the latter and is none. Only the call into the other library belongs inside the block: an error of ours
    there would be blamed on it.

    Args:
        error: class to raise.
        doing: what cannot be done, as in "Cannot read x.gguf".
        remedy: what to do about it, a sentence.
    """
    try:
        yield
    except SpecdecError:
        raise
    except BaseException as cause:
        if not isinstance(cause, Exception) and type(cause).__name__ != PANIC:
            raise
        raise error(f"{doing}: {described(cause)} {remedy}".rstrip()) from cause


def described(cause: BaseException) -> str:
    """An error in one line: its message, or its type if it has none, ending in a full stop."""
    words = " ".join(str(cause).split())
    if len(words) > LONGEST:
        words = words[:LONGEST] + "…"
    if not words or isinstance(cause, KeyError | AttributeError | IndexError | RecursionError):
        words = f"{type(cause).__name__}{': ' if words else ''}{words}"
    return words if words.endswith((".", "!", "?", "…")) else f"{words}."
