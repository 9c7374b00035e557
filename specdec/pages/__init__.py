"""What all our pages share: one style, and a policy that lets nothing in from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def style() -> str:
    """CSS: colours of light pages, dark ones and paper, letters, controls, and marks of drafted text."""
    return (files("specdec.pages") / "style.css").read_text(encoding="utf-8")


def hashes(*texts: str) -> str:
    """Sources of a policy that allow these scripts or styles and no others, as they stand in their elements."""
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)


def policy(**allowed: str) -> str:
    """A Content-Security-Policy: no request to anywhere, no form, no frame and no code but what is allowed.

    Args:
        allowed: sources by directive, as `script_src=hashes(…)`.
    """
    directives = {"default_src": "'none'", **allowed, "base_uri": "'none'", "form_action": "'none'"}
    return "; ".join(f"{name.replace('_', '-')} {sources}" for name, sources in directives.items())
