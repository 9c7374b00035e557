"""Other people's clients against `specdec serve`: do they work, and do they see the acceptance that we count?

python -m experiments.clients [home=.venv-clients] [clients=NAME,NAME] [results=docs/results/clients.json]
    [markdown=docs/clients.md]

Each client is installed from PyPI into an environment of its own below `home`, once, and then called against a server
of the embedded model with drafter=ngram. Nothing but the server is asked: tasks, texts and tokenizer are local.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._clients import CLIENTS, Client
from experiments._environments import installed
from experiments._results import publish
from experiments._words import Makers, listed, parsed, several
from specdec.errors import ConfigError
from specdec.measure.markdown import table
from specdec.models.sources import embedded_folder
from specdec.testing.server import ServerProcess, drafts_counted

NAME = "smollm2"
OPTIONS = (f"name={NAME}", "drafter=ngram", "policy=always", "precision=bfloat16")
SECONDS = 600
"""That a client may take."""
AIPERF = ("total_spec_decode_steps", "total_draft_tokens", "total_accepted_draft_tokens")
"""Its names of the figures that a server counts (`specdec.testing.server.COUNTED`), in the same order."""
SHOWN = 160
"""Characters of a line that the page shows."""
HEAD = "## Results\n"


def programs_of(client: Client, home: Path) -> Path:
    """Folder of a client's programs; they are installed first, if need be."""
    return installed(home / client.requirements[0].partition("=")[0], client.requirements)


def called(client: Client, programs: Path, url: str) -> dict[str, Any]:
    """What a client says.

    Returns:
        passed: whether its exit code is 0 and it printed what is expected; shown: those lines, or its last ones if it
        failed; figures: steps with a draft, draft tokens and accepted ones as it says, None if it says nothing.
    """

    def filled(text: str) -> str:
        return text.replace("URL", url).replace("NAME", NAME).replace("TOKENIZER", str(embedded_folder()))

    with tempfile.TemporaryDirectory(prefix="specdec-client-") as folder:
        for name, text in client.files.items():
            Path(folder, name).write_text(filled(text), encoding="utf-8")
        variables = {name: filled(text) for name, text in client.variables.items()}
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "OPENAI_API_KEY": "x", "HF_HOME": folder, "PATH": path, **variables}
        for name in ("HF_HUB_OFFLINE", "PYTHONPATH"):
            environment.pop(name, None)
        words = [str(programs / client.words[0]), *map(filled, client.words[1:])]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
        lines = (done.stdout + done.stderr).splitlines()
        shown = [line.strip() for line in lines if re.fullmatch(client.shows, line.strip())]
        passed = done.returncode == 0 and bool(shown)
        figures = None
        if passed and client.figures is not None:
            told = json.loads(Path(folder, client.figures).read_text(encoding="utf-8"))
            figures = [round(told[name]["avg"]) for name in AIPERF]
    return {"passed": passed, "shown": shown if passed else lines[-8:], "figures": figures}


def study(names: Sequence[str], home: Path) -> dict[str, Any]:
    """Client → version, call, what it says, and what the server counted meanwhile."""
    programs = {name: programs_of(CLIENTS[name], home) for name in names}
    found: dict[str, Any] = {}
    with ServerProcess(*OPTIONS) as server:
        for name in names:
            before = counts(server)
            row = called(CLIENTS[name], programs[name], server.url)
            ours = [after - then for after, then in zip(counts(server), before, strict=True)]
            client = CLIENTS[name]
            found[name] = {"requirement": client.requirements[0], "call": shlex.join(client.words), **row, "ours": ours}
            print(name, found[name], flush=True)
    return found


def counts(server: ServerProcess) -> list[int]:
    """Steps with a draft, draft tokens and accepted ones so far."""
    found = drafts_counted(server.metrics())
    assert found is not None  # our servers count them
    return found


def told(found: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = [["client", "works", "it prints", "drafts, draft tokens, accepted: ours", "the client's"]]
    for row in found.values():
        shown = " ".join(f"`{line.replace('|', ' ')[:SHOWN].strip()}`" for line in row["shown"])
        says = "" if row["figures"] is None else ", ".join(map(str, row["figures"]))
        works = "yes" if row["passed"] else "no"
        rows.append([f"`{row['requirement']}`", works, shown, ", ".join(map(str, row["ours"])), says])
    calls = "\n".join(f"{row['call']}" for row in found.values())
    return f"{table(rows)}\n\nThe calls (`program.py` is in `experiments/_clients.py`):\n\n```text\n{calls}\n```\n"


WORDS: Makers = {**several(("home", "results", "markdown")), "clients": listed}


def main(words: Sequence[str]) -> None:
    """Installs, calls, prints, writes what was asked for."""
    options = parsed(words, WORDS)
    names = options.get("clients", tuple(CLIENTS))
    if unknown := sorted(set(names) - set(CLIENTS)):
        raise ConfigError(f"There is no client {unknown[0]!r}. Valid names: {', '.join(CLIENTS)}.")
    found = study(names, options.get("home", Path(".venv-clients")).absolute())
    print(told(found))
    publish("experiments.clients", words, options, found, told(found), HEAD)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        sys.exit(str(error))
