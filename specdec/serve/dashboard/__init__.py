"""The page at `/`: what the server does now, and a box to ask it something.

It is one file that holds nothing of the server: its scripts read /metrics, as Prometheus does, and call the API, as any
client does, with the key that is typed into the page.
"""

from __future__ import annotations

from importlib.resources import files

from starlette.responses import Response

from specdec import pages

SCRIPTS = ("metrics", "cards", "ask", "watch")
"""Each builds on those before it; the last one begins."""


def dashboard() -> Response:
    """The page, with a policy that allows its own scripts, its own style and calls of this server, and nothing else."""
    scripts = {name: _own(f"{name}.js") for name in SCRIPTS}
    style = pages.style() + _own("style.css")
    page = _own("page.html")
    for name, text in {**scripts, "style": style}.items():
        page = page.replace(f"{{{{ {name} }}}}", text)
    allowed = pages.policy(
        script_src=pages.hashes(*scripts.values()),
        style_src=pages.hashes(style),
        connect_src="'self'",
        img_src="data:",
        frame_ancestors="'none'",
    )
    headers = {
        "content-security-policy": allowed,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }
    return Response(page, media_type="text/html; charset=utf-8", headers=headers)


def _own(name: str) -> str:
    return (files("specdec.serve.dashboard") / name).read_text(encoding="utf-8")
