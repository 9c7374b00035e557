"""The study of clients: what it takes from one, on programs in the place of clients."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from experiments import clients
from experiments._clients import CLIENTS, Client
from experiments._words import parsed
from specdec.errors import ConfigError

PROGRAM = """
import json, os, sys
print("asked URL for NAME")
print("noise")
json.dump({name: {"avg": n} for n, name in enumerate(FIGURES)}, open("said.json", "w"))
sys.exit(int(os.environ["CODE"]))
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """An environment with this interpreter."""
    (tmp_path / "python").symlink_to(sys.executable)
    return tmp_path


def client(shows: str, code: int) -> Client:
    text = PROGRAM.replace("FIGURES", repr(clients.AIPERF))
    return Client(("none",), ("python", "program.py"), shows, {"program.py": text}, {"CODE": str(code)}, "said.json")


def test_a_client_that_works(programs: Path) -> None:
    found = clients.called(client("asked .*", 0), programs, "http://here")
    shown = [f"asked http://here for {clients.NAME}"]
    assert found == {"passed": True, "shown": shown, "figures": [0, 1, 2]}


@pytest.mark.parametrize(("shows", "code"), [("asked .*", 1), ("answered .*", 0)])
def test_a_client_that_fails_or_says_nothing_is_told_as_such(programs: Path, shows: str, code: int) -> None:
    found = clients.called(client(shows, code), programs, "http://here")
    assert (found["passed"], found["figures"]) == (False, None)
    assert found["shown"][-1] == "noise"


def test_the_page_has_a_row_for_each_client() -> None:
    counts = [4, 3, 2]
    row = {
        "requirement": "a==1",
        "call": "a URL",
        "passed": True,
        "shown": ["|x| 1"],
        "figures": counts,
        "ours": counts,
    }
    text = clients.told({"a": row, "b": {**row, "requirement": "b==2", "passed": False, "figures": None}})
    assert "| `a==1` | yes | `x  1` | 4, 3, 2 | 4, 3, 2 |" in text
    assert "| `b==2` | no | `x  1` | 4, 3, 2 |  |" in text


def test_each_client_can_be_named() -> None:
    assert parsed([f"clients={','.join(CLIENTS)}"], clients.WORDS)["clients"] == tuple(CLIENTS)


def test_an_unknown_client_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"no client 'nobody'. Valid names: {', '.join(CLIENTS)}"):
        clients.main(["clients=nobody"])
