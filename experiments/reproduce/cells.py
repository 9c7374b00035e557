"""Cells of tables that more than one study has."""

from __future__ import annotations

from typing import Any


def ratio_cell(found: dict[str, Any]) -> str:
    """Median ratio to plain decoding with the least and the most of its rounds; refused if every round exceeds τ, which
    no round can truly do.

    Args:
        found: ratio, least, most, tau.
    """
    if found["least"] > found["tau"]:
        return "> τ: measure again"
    return f"{found['ratio']:.2f} ({found['least']:.2f} to {found['most']:.2f})"
