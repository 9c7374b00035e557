"""A bar on a terminal, and not a character elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from specdec.commands.progress import shown


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_for_terminals_alone(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal)
    assert list(shown(["token", "block"], "rules", console)) == ["token", "block"]
    assert ("rules" in out.getvalue()) == terminal
    assert out.getvalue() == "" or terminal
