"""The page at `/` in a real browser: figures are those of /metrics, texts those of the API, and no key is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from specdec import Goals
from specdec.serve.settings import Settings
from tests.browsing import EVIL, LOOK, contrast, spoken
from tests.serve.listening import listening
from tests.serve.services import CHAT
from tests.serve.test_meters import told

pytestmark = pytest.mark.xdist_group("browser")

GOALS = Goals(ttft_ms=60_000, tpot_ms=0.001)
"""One that all meet, and one that nobody does."""
KEY = "sk-not-to-be-seen"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(goals=GOALS) as address:
        yield address


class Visitor:
    """Opens the page, and keeps what it complains of and whom it asks."""

    def __init__(self, chromium: Any) -> None:
        self._chromium, self._contexts = chromium, list[Any]()
        self.complaints, self.asked = list[str](), list[Any]()

    def open(self, url: str, **settings: Any) -> Any:
        self._contexts.append(self._chromium.new_context(**settings))
        page = self._contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda asked: self.asked.append(asked))
        page.goto(url)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        assert self.complaints == []


@pytest.fixture
def visitor(chromium: Any) -> Iterator[Visitor]:
    made = Visitor(chromium)
    yield made
    made.close()


def settled(page: Any, text: str) -> None:
    page.locator("#state", has_text=text).wait_for()


def card(page: Any, key: str) -> list[str]:
    """Its numbers as they are read: name, of the last seconds, since the server began."""
    return [re.sub(r"\s+", " ", line) for line in page.locator(f"#card-{key} li").all_inner_texts()]


def makers(page: Any) -> list[str]:
    return [line.replace("\n", " ") for line in page.locator("#makers li").all_inner_texts()]


def answered(page: Any) -> None:
    page.get_by_role("button", name="Send").click()
    page.locator("#answer-state", has_text="Done").wait_for()


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def test_figures_are_those_of_metrics_before_and_after_the_first_request(visitor: Visitor) -> None:
    with listening(goals=GOALS) as url:
        page = visitor.open(url)
        settled(page, "Live.")
        keys = ("running", "waiting", "speed", "tau", "hits", "cache", "positions", "drafters", "goals", "ttft", "tpot")
        assert page.locator(".card").evaluate_all("all => all.map(e => e.id)") == [f"card-{key}" for key in keys]
        assert card(page, "tau") == card(page, "positions") == card(page, "hits") == ["–"]
        assert card(page, "running") == card(page, "waiting") == ["0"]
        for _ in range(2):
            body = {"messages": CHAT, "max_tokens": 60, "temperature": 0}
            assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == 200
        page.evaluate("look()")
        counts = told(httpx.get(f"{url}/metrics").text)
        steps, tokens = (
            {key[1]: value for key, value in counts.items() if key[0] == f"specdec_drafter_{name}_total"}
            for name in ("steps", "tokens")
        )
        tau = f"{sum(tokens.values()) / sum(steps.values()):.2f}"
        assert card(page, "tau") == [f"{tau} ({tau})"]  # all of it happened just now
        assert card(page, "drafters") == [
            f"{name} {percent(count / sum(steps.values()))} ({percent(count / sum(steps.values()))})"
            for name, count in steps.items()
        ]
        drafts = counts["vllm:spec_decode_num_drafts_total",]
        shares = [
            percent(value / drafts)
            for key, value in counts.items()
            if key[0] == "vllm:spec_decode_num_accepted_tokens_per_pos_total"
        ]
        assert card(page, "positions") == [f"position {at} {share} ({share})" for at, share in enumerate(shares, 1)]
        hits = percent(counts["vllm:prefix_cache_hits_total",] / counts["vllm:prefix_cache_queries_total",])
        assert card(page, "hits") == [f"{hits} ({hits})"]
        assert card(page, "goals") == ["first token 100 % (100 %)", "further ones 0 % (0 %)", "both 0 % (0 %)"]
        assert [line.split()[0] for line in card(page, "ttft")] == ["p50", "p95", "p99"]
        assert not [line for line in card(page, "tpot") if "–" in line]
        assert page.locator("#card-ttft .goal").count() == 1
        drawn = page.locator("#card-tau .curve").get_attribute("aria-label")
        assert re.fullmatch(r"τ, last 5 minutes: between \d\.\d\d and \d\.\d\d\.", drawn)


def test_an_answer_streams_and_shows_who_made_which_token(visitor: Visitor, url: str) -> None:
    page = visitor.open(url)
    settled(page, "Live.")
    page.get_by_label("Prompt").fill(CHAT[0]["content"])
    page.get_by_label("Most tokens").fill("60")
    page.get_by_label("Prompt").press("Control+Enter")
    page.locator("#answer-state", has_text="Done").wait_for()
    body = {"messages": CHAT, "max_tokens": 60, "temperature": 0, "return_steps": True}
    whole = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
    steps = whole["choices"][0]["steps"]
    shown = page.locator("#text > span").evaluate_all(
        "all => all.map(e => [e.title, e.lastChild.data, getComputedStyle(e).borderBottomStyle])"
    )
    assert "".join(text for _, text, _ in shown) == whole["choices"][0]["message"]["content"]
    expected: list[list[str]] = []
    for step in steps:
        for piece in step["pieces"]:
            maker = step["drafter"] if piece["drafted"] else ""
            if not expected or expected[-1][0] != maker:
                expected.append([maker, "", "solid" if maker else "none"])
            expected[-1][1] += piece["text"]
    assert shown == expected
    assert {"ngram", ""} <= {maker for maker, _, _ in shown}
    pairs = page.locator("#answer-figures > div")
    told = dict(pairs.evaluate_all("all => all.map(e => [...e.children].map(c => c.textContent))"))
    tokens, accepted = (sum(step[key] for step in steps) for key in ("tokens", "accepted_tokens"))
    assert told["τ"] == f"{tokens / len(steps):.2f}"
    assert (told["tokens"], told["steps"]) == (str(tokens), str(len(steps)))
    assert float(told["tokens/s"].replace(",", "")) > 0
    assert makers(page) == [
        f"ngram, accepted {accepted}", f"the target itself {tokens - accepted}",
    ]  # fmt: skip
    page.get_by_label("Sent as").select_option("plain text")
    page.get_by_label("Drafter").select_option("none: plain decoding")
    answered(page)
    assert page.locator("#text .drafted").count() == 0
    page.get_by_label("Prompt").fill("x" * 3000)
    page.get_by_role("button", name="Send").click()
    page.locator("#answer-state.bad").wait_for()
    refused = httpx.post(f"{url}/v1/completions", json={"prompt": "x" * 3000, "max_tokens": 60}).json()
    assert page.locator("#answer-state").inner_text() == refused["error"]["message"]


@pytest.mark.slow
def test_a_key_is_asked_for_and_kept_nowhere_but_in_the_page(visitor: Visitor) -> None:
    with listening(Settings(api_key=KEY, name="private")) as url:
        page = visitor.open(url)
        settled(page, "This server asks for its API key.")
        assert page.locator(".card").count() == 0
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        settled(page, "That is not the server's API key.")
        page.get_by_label("API key").fill(KEY)
        page.get_by_label("API key").press("Enter")
        settled(page, "Live.")
        assert page.locator("#model").inner_text() == "private"
        assert page.locator("#login").is_hidden()
        answered(page)
        stored = "[localStorage.length, sessionStorage.length, document.cookie, location.href, document.body.innerHTML]"
        *_, address, html = kept = page.evaluate(stored)
        assert kept[:3] == [0, 0, ""]
        assert address == f"{url}/"
        assert KEY not in html + page.get_by_label("API key").input_value()
        assert not [one.url for one in visitor.asked if KEY in one.url]
        page.reload()
        settled(page, "This server asks for its API key.")


@pytest.mark.slow
def test_a_server_that_goes_away_is_told_and_found_again(visitor: Visitor) -> None:
    with ExitStack() as first:
        url = first.enter_context(listening())
        page = visitor.open(url)
        settled(page, "Live.")
        answered(page)
        page.evaluate("look()")
        assert card(page, "tau") != ["–"]
    settled(page, "The server does not answer since")
    assert page.locator("#state.bad").count() == 1
    page.get_by_role("button", name="Send").click()
    page.get_by_text("The server does not answer.", exact=True).wait_for()
    with listening(port=int(url.rpartition(":")[2])):
        settled(page, "Live.")
        page.locator("#card-tau strong", has_text="–").wait_for()  # the new one has made no token yet
        answered(page)


def test_no_text_of_a_user_or_the_server_becomes_markup(visitor: Visitor) -> None:
    step = {"drafter": EVIL, "draft_tokens": 1, "accepted_tokens": 1, "tokens": 2,
            "pieces": [{"text": EVIL, "drafted": True}, {"text": EVIL, "drafted": False}]}  # fmt: skip
    frames = [{"choices": [{"index": 0, "steps": [step]}]}, {"error": {"message": EVIL}}]
    stream = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames) + "data: [DONE]\n\n"
    with listening(Settings(name=EVIL)) as url:
        page = visitor.open(url)
        settled(page, "Live.")
        assert page.locator("#model").inner_text() == EVIL
        page.get_by_label("Prompt").fill(EVIL)
        answered(page)
        page.route("**/v1/chat/completions", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
        page.get_by_role("button", name="Send").click()
        page.locator("#answer-state.bad").wait_for()
        assert page.locator("#answer-state").inner_text() == EVIL
        assert page.locator("#text > span").all_text_contents() == [f"{EVIL}: {EVIL}", EVIL]
        assert makers(page)[0] == f"{EVIL}, accepted 1"
        page.route("**/v1/chat/completions", lambda route: route.fulfill(body=stream[:60]))
        page.get_by_role("button", name="Send").click()
        page.get_by_text("The server went away before the answer was complete.").wait_for()
        assert page.evaluate("[document.images.length, document.scripts.length, 'broken' in window]") == [0, 4, False]


@pytest.mark.slow
def test_nothing_but_the_own_server_is_asked_and_no_other_code_runs(visitor: Visitor, url: str) -> None:
    page = visitor.open(url)
    settled(page, "Live.")
    answered(page)
    assert {one.url for one in visitor.asked if not one.url.startswith("data:")} == {
        f"{url}{path}" for path in ("/", "/health", "/metrics", "/v1/chat/completions")
    }
    assert page.evaluate("fetch('http://127.0.0.2:9/').then(() => 'allowed', () => 'refused')") == "refused"
    script = "Object.assign(document.createElement('script'), {textContent: 'window.broken = 1'})"
    assert page.evaluate(f"document.body.append({script}); 'broken' in window") is False


METRICS = r"""# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="a \"b\" {c}\\n"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.2",model_name="a \"b\" {c}\\n"} 6.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="a \"b\" {c}\\n"} 8.0
vllm:generation_tokens_total{engine="0",model_name="a \"b\" {c}\\n"} 50.0
vllm:generation_tokens_created{engine="0",model_name="a \"b\" {c}\\n"} 1.5e+09
"""


TWO_ENGINES = "".join(
    f'vllm:num_requests_running{{engine="{engine}",model_name="a"}} {running}.0\n'
    f'vllm:kv_cache_usage_perc{{engine="{engine}",model_name="a"}} {share}\n'
    f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="{engine}",model_name="a",position="1"}} {running}.0\n'
    for engine, running, share in ((0, 3, 0.5), (1, 4, 0.25))
)


def test_figures_of_several_engines_are_added_up_and_their_shares_averaged(visitor: Visitor, url: str) -> None:
    page = visitor.open(url)
    settled(page, "Live.")
    found = page.evaluate(
        """text => {
          const span = new Span(null, parsed(text, 0)), of = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
          const gauges = ["vllm:num_requests_running", "vllm:kv_cache_usage_perc"].map((name) => span.gauge(name));
          return [...gauges, span.each(of).get("1")];
        }""",
        TWO_ENGINES,
    )
    assert found == [7, 0.375, 7]


def test_quantiles_rates_and_memory_by_hand(visitor: Visitor, url: str) -> None:
    page = visitor.open(url)
    settled(page, "Live.")
    found = page.evaluate(
        """text => {
          const now = parsed(text, 10000), before = parsed(text.replace("50.0", "20.0").replace(" 2.0", " 1.0"), 4000);
          const name = "vllm:time_to_first_token_seconds", all = new Span(null, now), last = new Span(before, now);
          const none = new Span(now, now);
          return {
            model: now.model, rate: last.rate("vllm:generation_tokens_total"),
            quantiles: [0.25, 0.5, 0.75, 0.99].map((q) => all.quantile(name, q)),
            first: last.each(name + "_bucket").get("0.1"), none: [none.quantile(name, 0.5), none.ratio("a", "b")],
          };
        }""",
        METRICS,
    )
    assert found["model"] == 'a "b" {c}\\n'
    assert found["rate"] == 5  # 30 tokens in 6 seconds
    assert found["quantiles"] == pytest.approx([0.1, 0.15, 0.2, 0.2])  # the last bucket has no end
    assert (found["first"], found["none"]) == (1, [None, None])
    kept = page.evaluate(
        """text => {
          clearTimeout(waiting);
          const start = Date.now();
          for (let turn = 0; turn < 400; turn++) note(parsed(text, start + turn * EVERY));
          const kept = [looks.length, points.length, one("cards").querySelectorAll("path").length < 100];
          note(parsed(text.replace("1.5e+09", "1.6e+09"), start + 400 * EVERY));
          return [...kept, looks.length, points.length];
        }""",
        METRICS,
    )
    assert kept == [16, 151, True, 1, 1]  # what a new server counts has nothing to do with the old one's


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_and_text_has_contrast(visitor: Visitor, url: str, scheme: str) -> None:
    page = visitor.open(url, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    settled(page, "Live.")
    answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    looks = page.evaluate(LOOK)
    assert len(looks) > 50
    assert [look for look in looks if contrast(look[1], look[2]) < 4.5 and look[0] != "Stop"] == []


@pytest.mark.slow
def test_every_control_has_a_name_and_the_keyboard_reaches_it(visitor: Visitor, url: str) -> None:
    page = visitor.open(url)
    settled(page, "Live.")
    heard = spoken(page)
    named = {"textbox", "combobox", "spinbutton", "button", "link", "figure", "image", "region", "status"}
    assert {role for role, name in heard if role in named - {"status"} and not name.strip()} == set()
    assert {role for role, _ in heard} >= named | {"banner", "main"}
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the prompt"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]") == [
        "prompt", "solid",
    ]  # fmt: skip
    order = []
    for _ in range(5):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert order == ["kind", "temperature", "tokens", "drafter", "Send"]
