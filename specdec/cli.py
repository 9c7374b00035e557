"""The command line: `specdec <command> [key=value ...]`."""

from __future__ import annotations

import difflib
import os
import sys
from contextlib import suppress
from importlib import import_module

from specdec import __version__
from specdec.commands.table import COMMANDS
from specdec.commands.terminal import terminal

OF_STUDIES = ("hydra", "omegaconf", "altair", "vl_convert")
"""Packages of the extra `studies`: what commands need beyond the library."""
OF_SERVERS = ("fastapi", "starlette", "uvicorn", "prometheus_client")
"""Packages of the extra `serve`."""
EXTRAS = {**dict.fromkeys(OF_STUDIES, "studies"), **dict.fromkeys(OF_SERVERS, "serve")}
"""Package → what brings it."""
RENAMED = {"benchmark": "study"}
"""Old words, understood until version 0.3."""


def main() -> None:
    """Console script: the first argument, or the first two, name the command, the rest are its own.

    Exit codes: 0, done; 1, it was done and something is not as it should be (a job failed, a rule is not lossless);
    2, it was refused; 130 after Ctrl-C, 143 after SIGTERM, 141 if whoever read its output has gone.
    """
    _make_folder_importable()
    with terminal(kept=sys.argv[1:2] in (["study"], ["benchmark"])):
        _main()


def _make_folder_importable() -> None:
    """Classes of one's own may be in the current folder. It comes last, so that no file there hides a library."""
    with suppress(OSError):  # the folder has been removed
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())


def _main() -> None:
    words = 2 if " ".join(sys.argv[1:3]) in COMMANDS else 1
    command = " ".join(sys.argv[1 : 1 + words])
    if command in RENAMED:
        print(f"specdec: {command!r} is called {RENAMED[command]!r} now.", file=sys.stderr)
        command = RENAMED[command]
    if command in ("", "-h", "--help"):
        print(_usage())
        sys.exit(0 if command else 2)
    if command in ("-V", "--version"):
        print(f"specdec {__version__}")
        sys.exit(0)
    if command not in COMMANDS:
        print(_unknown(command), file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"specdec {command}", *sys.argv[1 + words :]]
    try:
        main_of_command = import_module(COMMANDS[command][0]).main
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        remedy = f"Run `pip install 'specdec-lab[{extra}]'`."
        print(f"specdec {command}: {error.name} is not installed. {remedy}", file=sys.stderr)
        sys.exit(2)
    main_of_command()


def _usage() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            f"usage: specdec {{{','.join(COMMANDS)}}} [key=value ...]   (--help after a command lists its settings)",
            "",
            *(f"  {name:<{width}}  {says}" for name, (_, says) in COMMANDS.items()),
            "",
            "  --version  print the version",
        ]
    )


def _unknown(command: str) -> str:
    close = difflib.get_close_matches(command, [*COMMANDS, *RENAMED], n=1)
    meant = f"Did you mean {RENAMED.get(close[0], close[0])}? " if close else ""
    return f"specdec: unknown command {command!r}. {meant}Valid commands: {', '.join(COMMANDS)}."
