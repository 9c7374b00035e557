"""The page at `/` without a browser: who gets it, and what it may load."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from specdec.serve.settings import Settings
from tests.serve.services import get, service


def parts(page: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)


def sha256(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_page_may_run_its_own_scripts_and_ask_its_own_server_alone() -> None:
    with service() as made:
        answer = get(made, "/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": " ".join(map(sha256, parts(answer.text, "script"))),
        "style-src": " ".join(map(sha256, parts(answer.text, "style"))),
        "connect-src": "'self'",
        "img-src": "data:",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert len(parts(answer.text, "script")) == 4
    assert (answer.headers["referrer-policy"], answer.headers["x-content-type-options"]) == ("no-referrer", "nosniff")
    assert "{{" not in answer.text
    assert set(re.findall(r"https?://[^\s\"']+", answer.text)) == {"http://www.w3.org/2000/svg"}  # a name of XML


def test_with_a_key_the_page_alone_is_open_and_tells_nothing() -> None:
    with service(Settings(api_key="secret", name="private")) as made:
        page = get(made, "/")
        assert page.status_code == 200
        assert "private" not in page.text
        assert "secret" not in page.text
        for path in ("/metrics", "/v1/models", "/dashboard"):
            assert get(made, path).status_code == 401
        assert get(made, "/metrics", authorization="Bearer secret").status_code == 200


@pytest.mark.parametrize("key", [None, "secret"])
def test_it_can_be_switched_off(key: str | None) -> None:
    with service(Settings(dashboard=False, api_key=key)) as made:
        assert get(made, "/").status_code == 404
        assert get(made, "/health").status_code == 200
