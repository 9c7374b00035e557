"""How a command meets its terminal: streams that are closed or know few characters, warnings in a line, signals.

Nothing of specdec is imported here, so that all of it holds from a command's first moment.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141
"""Exit codes: 128 and the number of the signal, as shells have them."""


class Terminated(BaseException):
    """SIGTERM: ends the program as Ctrl-C does, so that files and the terminal are left in order."""


@contextmanager
def terminal(kept: bool) -> Iterator[None]:
    """Around a whole command.

    Args:
        kept: whether the command goes on where it was stopped, if it is given again.
    """
    _open_streams()
    shown = warnings.formatwarning
    warnings.formatwarning = _warning
    before = _on_sigterm(_terminate)
    note = " What is finished is kept; the same command goes on." if kept else ""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        _leave(INTERRUPTED, f"interrupted.{note}")
    except Terminated:
        _leave(TERMINATED, f"terminated.{note}")
    except BrokenPipeError:
        leave_broken_pipe()
    finally:
        warnings.formatwarning = shown
        if before is not None:
            _on_sigterm(before)


def leave_broken_pipe() -> None:
    """Whoever read the output has gone: there is nobody to tell, and nothing to write to when Python ends."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    sys.exit(BROKEN_PIPE)


def _open_streams() -> None:
    """A closed stream is opened to nothing, lest the next file that is opened take its place; and no character of ours
    ends a program because the terminal lacks it."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - it lasts as long as the process
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    ours = issubclass(category, RuntimeWarning | UserWarning)
    return f"{'specdec' if ours else category.__name__}: {' '.join(str(message).split())}\n"


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _on_sigterm(handler: object) -> object:
    """Sets what happens on SIGTERM, where that may be set; what happened until then, or None."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, handler)  # type: ignore[arg-type]


def _leave(code: int, words: str) -> None:
    with suppress(OSError, ValueError):
        print(f"specdec: {words}", file=sys.stderr)
    sys.exit(code)
