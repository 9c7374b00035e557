"""The dashboard: what it says against figures written by hand, and how it behaves in a real browser."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from specdec import cli
from specdec.commands.report import DRAWN, VIEWS, screenshots
from specdec.measure.folders import RunFolder
from specdec.measure.rows import PromptRow, StepRow, TurnRow
from specdec.measure.runs import Run
from specdec.report.leaderboard import origins
from specdec.report.methods import methods, varying_axes
from specdec.report.page import write_report
from specdec.report.tokens import token_view
from specdec.stats import DecodingStats
from tests.browsing import EVIL, LOOK, contrast, spoken
from tests.measure.studies import (
    CERTIFICATE,
    PROMPTS,
    STEPS,
    axes,
    choices,
    environment,
    places,
    run,
    scalars,
    study,
    summary,
    unfinished,
)

pytestmark = pytest.mark.xdist_group("browser")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def rivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(study(), tmp_path_factory.mktemp("report") / "new" / "rivers.html", "rivers")


class Desk:
    """Opens pages in windows of their own, and keeps what they complain of or ask for besides themselves."""

    def __init__(self, chromium: Any) -> None:
        self.chromium, self.complaints, self.contexts = chromium, [], []

    def open(self, path: Path, at: str = "", **settings: Any) -> Any:
        self.contexts.append(self.chromium.new_context(**settings))
        page = self.contexts[-1].new_page()
        page.set_default_timeout(5000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda told: self.complaints.append(told.text) if told.type == "error" else None)
        page.on(
            "request",
            lambda asked: self.complaints.append(asked.url) if not asked.url.startswith(path.as_uri()) else None,
        )
        page.goto(path.as_uri() + at)
        settled(page)
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        assert self.complaints == []


@pytest.fixture(scope="module")
def rivers_page(chromium: Any, rivers: Path) -> Iterator[Any]:
    desk = Desk(chromium)
    yield desk.open(rivers)
    desk.close()


@pytest.fixture
def page(rivers_page: Any) -> Any:
    """The page of the study, as it is at first."""
    rivers_page.emulate_media(media="screen", color_scheme="light", reduced_motion="no-preference")
    rivers_page.evaluate("location.hash = ''; dispatchEvent(new Event('hashchange'))")
    settled(rivers_page)
    return rivers_page


@pytest.fixture
def show(chromium: Any, rivers: Path, tmp_path: Path) -> Iterator[Open]:
    """Opens a page of other runs, or the study's once more."""
    desk = Desk(chromium)

    def opened(runs: Sequence[Run] | None = None, at: str = "", **settings: Any) -> Any:
        path = rivers if runs is None else write_report(runs, tmp_path / "page.html", "made here")
        return desk.open(path, at, **settings)

    yield opened
    desk.close()


def standings(page: Any) -> list[list[str]]:
    """Visible rows of the leaderboard, cell by cell."""
    rows = page.locator("#standings tbody tr").filter(visible=True)
    return [row.locator("th, td").filter(visible=True).all_inner_texts() for row in rows.all()]


def points(page: Any, figure: str) -> int:
    return int(page.locator(f"#figure-{figure} .mark-symbol path").count())


def settled(page: Any) -> None:
    page.wait_for_selector(DRAWN, state="attached")


# --- What the page says


def test_the_leaderboard_is_sorted_by_speedup_and_refuses_what_cannot_be_true(page: Any) -> None:
    assert standings(page) == [
        ["ngram · gumbel · γ 3", "1.62", "1.52–1.75", "2.12", "0.70", "32.5", "3/3"],
        ["ngram · gumbel · γ 5", "1.50", "1.40–1.62", "2.25", "0.60", "30.0", "3/3"],
        ["model · token · γ 4", "1.12", "1.02–1.25", "2.75", "0.75", "22.5", "–"],
        ["none · gumbel · γ none", "–", "–", "1.00", "0.00", "20.0", "–"],
        ["model · block · γ 4", "> τ: measuring error", "3.00", "0.81", "70.0", "–"],
    ]
    everything = page.locator("main").text_content() + page.locator("#data").text_content()
    assert "beside other jobs" not in everything
    assert not re.search(r"\b3\.50?\b", everything)  # the speedup that exceeds τ stands nowhere
    page.get_by_label("Sorted by").select_option("α")
    assert [row[0] for row in standings(page)][:2] == ["model · block · γ 4", "model · token · γ 4"]
    assert page.locator("[aria-sort]").all_inner_texts() == ["α"]


def test_the_page_begins_with_what_was_found_and_the_interval_of_each_method(page: Any) -> None:
    first = page.locator("main > section").first
    assert first.locator(".answer").inner_text().startswith("ngram · gumbel · γ 3 is the fastest: 1.62 times as fast")
    assert points(page, "speedup") == 3  # none has no speedup, and one is above τ
    drawn = page.locator("#figure-speedup .mark-text.role-mark text").all_text_contents()
    assert drawn == ["ngram · gumbel · γ 3", "ngram · gumbel · γ 5", "model · token · γ 4"]


def test_categories_are_shown_one_by_one_or_all(page: Any) -> None:
    page.get_by_label("Prompts", exact=True).select_option("summary")
    assert standings(page) == [["ngram · gumbel · γ 3", "1.88", "1.77–2.00", "2.50", "0.80", "37.5", "2/2"]]
    page.get_by_label("Prompts", exact=True).select_option("every category")
    assert [row[:3] for row in standings(page)[:3]] == [
        ["ngram · gumbel · γ 3", "summary", "1.88"],
        ["ngram · gumbel · γ 3", "all prompts", "1.62"],
        ["ngram · gumbel · γ 5", "all prompts", "1.50"],
    ]
    assert len(standings(page)) == 5 + 2


def test_speedups_of_jobs_that_ran_side_by_side_are_marked_and_do_not_rank(show: Open) -> None:
    beside = environment(side_by_side=True)
    fast = run("fast", axes("ngram", "gumbel", 3), summary(scalars(1.5, 2.0, 0.5), 0.8), environment=beside)
    slow = run("slow", axes("ngram", "gumbel", 5), summary(scalars(1.25, 2.5, 0.5), 0.8), environment=beside)
    page = show([fast, slow])
    assert [row[1] for row in standings(page)] == ["1.25 beside other jobs", "1.50 beside other jobs"]  # by τ
    assert page.get_by_text("Times are not reliable here.").is_visible()


def test_certificates_origins_and_errors_are_told(page: Any) -> None:
    told = page.locator("#losslessness tbody tr").first.locator("th, td").all_inner_texts()
    assert told == ["ngram · gumbel · γ 3", "gumbel", "lossless", "yes", "yes", "0", "41", "3/3"]
    made = page.locator("#origins").inner_text()
    for part in (
        "specdec study -m drafter=none",
        "Some CPU, 2 torch",
        "0123456789abcdef",
        "torch 2.13",
    ):
        assert part in made
    ended = page.locator("#ended-early").inner_text()
    assert "num_layers=40 exceeds the target's 30." in ended
    assert "early_exit · token · γ 4" in ended
    assert "Run the same command again to continue it." in ended


def test_a_failed_certificate_says_why(show: Open) -> None:
    why = "The text [0, 1] has probability 1/4, not 3/8."
    bad = {**CERTIFICATE, "law_equal": False, "passed": False, "witness": why}
    page = show([run("x", axes("x", "mine", 3), summary(scalars(1.5, 2.0, 0.5), 0.8, certificate=bad))])
    told = page.locator("#losslessness").inner_text()
    assert "failed" in told
    assert why in told


def test_every_chart_has_a_definition_its_data_and_the_command(page: Any) -> None:
    titles = page.locator("figure h3").all_inner_texts()
    assert len(titles) == 9
    for figure in page.locator("figure").all():
        assert len(figure.locator("figcaption").inner_text()) > 40
        assert figure.locator("svg[aria-label], .chart [aria-label]").count() >= 1
        figure.locator("summary").click()
        assert "specdec study" in figure.locator("pre").inner_text()
        assert figure.locator("tbody tr").count() > 1
    first = page.locator("#figure-positions tbody tr").first.locator("th, td").all_inner_texts()
    assert first == ["ngram · gumbel · γ 3", "conditional", "1", "0.8"]
    split = page.locator("#figure-time tbody tr").all_inner_texts()
    assert "model · token · γ 4\tdraft\t0.375" in split


def test_charts_without_data_are_left_out(show: Open) -> None:
    bare = summary(scalars(None, 1.0, 0.0, drafted_tokens=0), 0.0, certificate=None)
    page = show([run("none", axes("none", "gumbel", None), bare)])
    assert page.locator("figure h3").all_inner_texts() == ["Where the time goes"]
    assert page.get_by_text("All runs share their settings.").is_visible()
    assert "not certified" in page.locator("#losslessness").inner_text()


def test_of_many_runs_a_chart_of_lines_draws_the_best_and_the_filter_brings_others(show: Open) -> None:
    page = show([
        run(f"x{gamma}", axes("x", "token", gamma), summary(scalars(1.0 + gamma / 100, 2.0, 0.5), 0.8))
        for gamma in range(1, 15)
    ])  # fmt: skip
    figure = page.locator("#figure-positions")
    names = figure.locator(".legend li").filter(visible=True)
    assert names.all_inner_texts() == [f"x · γ {gamma}" for gamma in range(5, 15)]
    assert points(page, "positions") == 10 * 4
    assert points(page, "speedup") == 14
    assert figure.get_by_text("Only the 10 best runs of the leaderboard are drawn").is_visible()
    for gamma in range(5, 15):
        page.get_by_role("group", name="γ").get_by_label(str(gamma), exact=True).uncheck()
    settled(page)
    assert names.all_inner_texts() == [f"x · γ {gamma}" for gamma in range(1, 5)]
    assert figure.get_by_text("Only the 10 best").is_hidden()


def test_a_tau_far_above_every_speedup_takes_no_room(show: Open) -> None:
    page = show([run(f"x{tau}", axes("x", "token", tau), summary(scalars(1.5, tau, 0.5), 0.8)) for tau in (2, 9)])
    drawn = page.locator("#figure-speedup")
    assert drawn.locator(".mark-rect path, .mark-tick path, [aria-roledescription=tick]").count() == 1
    numbers = [float(text) for text in drawn.locator("text").all_text_contents() if re.fullmatch(r"[\d.]+", text)]
    assert max(numbers) < 3


def test_jobs_that_run_or_are_planned_are_no_failures(show: Open) -> None:
    done = run("done", axes("ngram", "token", 3), summary(scalars(1.5, 2.0, 0.5), 0.8))
    coming = [
        replace(unfinished(state, axes("ngram", "token", gamma), None), status=state, environment=made)
        for gamma, state, made in ((5, "running", environment()), (7, "planned", {}))
    ]
    page = show([done, *coming])
    assert "1 of 3 runs done, 1 running, 1 planned" in page.locator("header").inner_text()
    assert "unknown" not in page.locator("header").inner_text()  # a job that has not begun has no machine
    assert page.locator("#coming li").all_inner_texts() == [
        "ngram · γ 5 running",
        "ngram · γ 7 planned",
    ]
    assert page.locator("#ended-early").count() == 0
    assert page.get_by_text("did not finish").count() == 0


def test_what_all_runs_share_is_said_once(page: Any) -> None:
    assert "In all runs: temperature 0.8" in page.locator("header").inner_text()


def swept() -> list[Run]:
    """γ at two temperatures and for two seeds; a speedup grows by 0.1 with each of the three."""
    return [
        run(f"{temperature}-{gamma}-{seed}",
            {**axes("ngram", "token", gamma), "temperature": temperature, "seed": seed},
            summary(scalars(1.0 + 0.1 * temperature + 0.1 * gamma + 0.1 * seed, 3.0, 0.5), 0.8))
        for temperature in (0, 1) for gamma in (2, 4, 8) for seed in (1, 2)
    ]  # fmt: skip


def test_a_curve_has_a_part_for_each_condition_and_the_mean_and_spread_of_its_seeds(show: Open) -> None:
    page = show(swept())
    figure = page.locator("#figure-over-num-draft-tokens")
    parts = figure.locator("svg.marks text").all_text_contents()
    assert [text for text in parts if text.startswith("temperature")] == ["temperature 0", "temperature 1"]
    told = figure.locator(".mark-symbol path").evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    means = sorted(float(re.findall(r"Mean of value: ([\d.]+)", text)[0]) for text in told)
    assert means == pytest.approx([1.35, 1.45, 1.55, 1.65, 1.95, 2.05])  # (1 + 0.1 γ + 0.15) and 0.1 more
    assert figure.locator(".legend li").all_inner_texts() == ["ngram"]
    ticks = {text for text in parts if re.fullmatch(r"\d", text)}
    assert {"2", "4", "8"} <= ticks
    assert figure.locator(".mark-rule.role-mark line").count() == 6  # from a standard deviation below to one above
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def chooser() -> list[Run]:
    """A run whose policy chose among three drafters, one of which never drafted, and one with a single drafter."""
    who = choices(None, suffix=(60, 2.5), recycling=(30, 1.75), none=(10, 1.0), ngram=(0, 0.0))
    who += choices("dialogue", recycling=(20, 1.5)) + choices("summary", suffix=(60, 2.5), none=(20, 1.0))
    where = places(None, 0, suffix=5, recycling=15) + places(None, 1, suffix=3, none=1)
    where += (
        places("dialogue", 0, recycling=15) + places("summary", 0, suffix=5) + places("summary", 1, suffix=3, none=1)
    )
    learnt = [{"drafter": "suffix", "kind": 33, "rate": 0.625, "weight": 12.5}]
    told = summary(scalars(1.5, 2.0, 0.5), 0.8, by_drafter=who, along_the_text=where, survival=learnt)
    alone = summary(scalars(1.5, 2.0, 0.5), 0.8, by_drafter=choices(None, ngram=(9, 2.0), none=(9, 1.0)))
    several = {**axes("suffix+recycling+ngram", "gumbel", 8), "policy": "select"}
    return [run("several", several, told), run("alone", axes("ngram", "gumbel", 3), alone)]


def test_the_page_tells_which_drafter_was_chosen_when(show: Open) -> None:
    page = show(chooser())
    table = page.locator("#choices")
    assert table.locator("thead th").all_inner_texts() == ["Method", "Prompts", "suffix", "recycling", "ngram", "none"]
    assert [row.split("\t")[1:] for row in table.locator("tbody tr").all_inner_texts()] == [
        ["all prompts", "60%, τ 2.50", "30%, τ 1.75", "–", "10%, τ 1.00"],
        ["dialogue", "–", "100%, τ 1.50", "–", "–"],
        ["summary", "75%, τ 2.50", "–", "–", "25%, τ 1.00"],
    ]
    page.locator("#survival summary").click()
    learnt = page.locator("#survival tbody tr").all_inner_texts()
    assert [row.split("\t")[1:] for row in learnt] == [["suffix", "33", "0.62", "12.5"]]
    figure = page.locator("#figure-choices")
    assert figure.locator(".legend li").all_inner_texts() == ["suffix", "recycling", "ngram", "none"]
    assert figure.locator("tbody tr").first.locator("td").all_text_contents() == [
        "all prompts", "0–15", "suffix", "5", "0.25"
    ]  # fmt: skip

    def bars() -> list[str]:
        settled(page)
        return sorted(
            figure.locator(".mark-rect path").evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
        )

    assert len(bars()) == 4
    figure.get_by_role("radio", name="dialogue").check()
    [only] = bars()
    assert "recycling" in only
    assert "0–15" in only
    assert page.evaluate("location.hash") == "#choices=dialogue"


def test_the_kind_of_acceptance_can_be_chosen(page: Any) -> None:
    heights = "e => e.getAttribute('transform')"
    before = page.locator("#figure-positions .mark-symbol path").nth(2).evaluate(heights)
    page.get_by_role("radio", name="Cumulative").check()
    settled(page)
    assert points(page, "positions") == 3 + 5 + 4 + 4
    assert page.locator("#figure-positions .mark-symbol path").nth(2).evaluate(heights) != before
    assert page.evaluate("location.hash") == "#positions=cumulative"


def test_the_text_view_tells_who_proposed_what(page: Any) -> None:
    page.get_by_label("Run", exact=True).select_option("ngram · gumbel · γ 5")
    page.get_by_label("Prompt", exact=True).select_option(index=2)
    page.locator("#prompt-text summary").click()
    assert page.locator("#prompt-text p").inner_text() == PROMPTS[2][2]
    shown = page.locator("#text > *").evaluate_all("all => all.map(e => [e.className || e.localName, e.textContent])")
    expected = [["span", "The"]]
    expected += [["drafted", "ngram:  river"], ["drafted", "ngram:  rose"], ["del", "refused: ."], ["span", ","]]
    expected += [["drafted", f"ngram: {text}"] for text in STEPS[2][0][:5]] + [["span", "."]]
    expected += [["drafted", "ngram: \n"], ["del", "refused:  It"], ["span", "The"]]
    expected += [["del", "refused:  river"], ["span", " town"]]
    assert shown == expected
    assert page.locator("#text-figures").inner_text() == (
        "13 tokens in 5 steps; 8 of them (62 %) proposed by the drafter."
    )
    assert page.locator("#text .drafted").first.evaluate("e => getComputedStyle(e).borderBottomStyle") == "solid"
    assert "line-through" in page.locator("#text del").first.evaluate("e => getComputedStyle(e).textDecorationLine")


# --- How it behaves


def test_a_filter_hides_rows_changes_charts_and_stays_in_the_address(page: Any, show: Open) -> None:
    before = points(page, "positions")
    page.get_by_role("group", name="drafter").get_by_label("model").uncheck()
    settled(page)

    def check(page: Any) -> None:
        assert [row[0] for row in standings(page)] == [
            "ngram · gumbel · γ 3",
            "ngram · gumbel · γ 5",
            "none · gumbel · γ none",
        ]
        assert points(page, "positions") == 3 + 5
        assert page.locator("#figure-distance").is_hidden()  # only model has probabilities
        assert page.locator("#figure-positions .legend li").filter(visible=True).count() == 2
        assert page.locator("#count").inner_text() == "5 of 7 runs"
        options = page.get_by_label("Run", exact=True).locator("option:not([disabled])")
        assert options.all_text_contents() == [row[0] for row in standings(page)]

    assert before == 3 + 5 + 4 + 4
    check(page)
    address = page.evaluate("location.hash")
    assert address == "#hide.drafter=model"
    again = show(at=address)
    check(again)
    again.get_by_role("button", name="Show all").click()
    settled(again)
    assert points(again, "positions") == before
    assert again.locator("#figure-distance").is_visible()
    assert again.evaluate("location.hash") == ""


def test_a_filter_that_nothing_passes_says_so(page: Any) -> None:
    page.goto(page.url.partition("#")[0] + "#hide.drafter=model&hide.drafter=ngram&hide.drafter=none")
    page.locator("#count", has_text="2 of 7").wait_for()
    assert standings(page) == []
    assert page.get_by_text("No finished run matches the filter.").is_visible()
    sections = page.locator("main > section").filter(visible=True)
    assert sections.evaluate_all("all => all.map(e => e.id)") == ["answer", "leaderboard", "origins", "ended-early"]
    assert page.locator("nav a").filter(visible=True).count() == 4
    assert page.locator("figure").filter(visible=True).count() == 0


def test_it_can_be_used_with_the_keyboard_alone(show: Open) -> None:
    page = show(viewport={"width": 1280, "height": 900})
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the leaderboard"
    for _ in range(3):  # the filter's summary, early_exit, model
        page.keyboard.press("Tab")
    focused = "[document.activeElement.value, getComputedStyle(document.activeElement).outlineStyle]"
    assert page.evaluate(focused) == ["model", "solid"]
    page.keyboard.press("Space")
    assert len(standings(page)) == 3
    page.evaluate("document.querySelector('.skip').focus()")
    page.keyboard.press("Enter")
    page.wait_for_url("**#hide.drafter=model")  # a link to a section loses no filter
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "category"


def test_every_control_has_a_name_and_the_page_has_landmarks(page: Any) -> None:
    told = spoken(page)
    controls = {"checkbox", "radio", "combobox", "button", "link", "DisclosureTriangle", "region", "figure"}
    assert {role for role, name in told if role in controls and not name.strip()} == set()
    assert {role for role, _ in told} >= {"checkbox", "radio", "combobox", "button", "link", "figure"}
    assert {role for role, _ in told} >= {"banner", "main", "navigation", "complementary"}
    assert all(page.locator("legend").all_inner_texts())
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(e => Number(e.localName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_no_data_can_break_out_of_the_page(show: Open) -> None:
    rows = [{"index": 0, "category": EVIL, "question_id": EVIL, "prompt": EVIL, "text": EVIL}]
    steps = [
        {"index": 0, "step": 0, "texts": [EVIL, EVIL], "proposed": [True, False], "rejected": EVIL, "drafter": EVIL}
    ]
    told = summary(scalars(1.5, 2.0, 0.5), 0.8, by_category={EVIL: scalars(1.5, 2.0, 0.5), "b": scalars(1.5, 2.0, 0.5)})
    good = run("good", axes(EVIL, "token", 4), told, rows=rows, steps=steps, environment=environment(command=EVIL))
    bad = replace(good, folder=Path(EVIL), status="failed", error=EVIL, axes=axes("x", EVIL, 4), summary={})
    page = show([good, bad])
    page.locator("#prompt-text summary").click()
    assert page.locator("#prompt-text p").inner_text() == EVIL
    assert page.locator("#text > *").all_text_contents() == [f"{EVIL}: {EVIL}", f"refused: {EVIL}", EVIL]
    assert EVIL in page.locator("#ended-early").inner_text()
    page.get_by_role("group", name="drafter").get_by_label(EVIL).uncheck()
    assert standings(page) == []
    assert page.evaluate("[document.images.length, document.scripts.length, 'broken' in window]") == [0, 5, False]


def test_the_page_forbids_requests_and_scripts_that_are_not_its_own(chromium: Any, rivers: Path) -> None:
    page = chromium.new_page()
    page.goto(rivers.as_uri())
    assert page.evaluate("fetch('data:,').then(() => 'allowed', () => 'refused')") == "refused"
    script = "Object.assign(document.createElement('script'), {textContent: 'window.broken = 1'})"
    assert page.evaluate(f"document.body.append({script}); 'broken' in window") is False
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    page.close()


# --- How it looks

PARTS = """() => ["--part-draft", "--part-verify", "--part-host"].map((part) => {
  const style = getComputedStyle(document.documentElement);
  return [part, style.getPropertyValue("--on-part"), style.getPropertyValue(part)];
})"""


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")])
def test_text_has_contrast_on_light_and_on_dark_pages(page: Any, scheme: str, paper: str) -> None:
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    looks = [*page.evaluate(LOOK), *page.evaluate(PARTS)]
    assert len(looks) > 150
    assert [look for look in looks if contrast(look[1], look[2]) < 4.5] == []
    drawn = page.locator(".mark-line path[stroke], .mark-symbol path[fill]")
    lines = {
        color for color in drawn.evaluate_all("all => all.map(e => getComputedStyle(e).stroke)") if color != "none"
    }
    assert len(lines) >= 4
    assert [color for color in lines if contrast(color, paper) < 3] == []


def test_a_phone_scrolls_tables_and_never_the_page(show: Open) -> None:
    page = show(viewport=VIEWS["phone"][0])
    for summary_ in page.locator("main summary").all():
        summary_.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#filter").get_attribute("open") is None
    assert page.locator("#leaderboard .scroll").first.evaluate("e => e.scrollWidth > e.clientWidth")
    widths = page.locator(".chart svg").evaluate_all("all => all.map(e => e.getBoundingClientRect().width)")
    assert all(300 < width <= 358 for width in widths)


def test_paper_shows_no_controls_and_a_quiet_reader_no_motion(page: Any) -> None:
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("aside").is_hidden()
    assert page.locator("#standings").is_visible()


def test_a_chart_of_many_methods_can_be_read_on_paper(show: Open) -> None:
    page = show([
        run(f"x{gamma}", axes("x", "token", gamma), summary(scalars(1.0 + gamma / 100, 2.0, 0.5), 0.8))
        for gamma in range(1, 81)
    ])  # fmt: skip
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 1000})  # of A4 within its margins
    shrunk = "e => e.getBoundingClientRect().width / e.viewBox.baseVal.width"
    assert page.locator("#figure-speedup svg").evaluate(shrunk) > 0.6


# --- Parts


def test_only_axes_that_differ_are_told_and_no_two_runs_share_a_name() -> None:
    told = summary(scalars(1.5, 2.0, 0.5), 0.8)
    one = run("a", {"drafter": "x", "rule": "r", "gamma": 10, "flag": True, "same": 1}, told)
    two = run("b", {"drafter": "x", "rule": "r", "gamma": 9, "flag": False, "same": 1}, told)
    three = run("c", {"drafter": "x", "rule": "r", "flag": False, "layers": 3}, told)
    assert varying_axes([one, two, three]) == {"gamma": ["9", "10", "does not apply"], "flag": ["no", "yes"]}
    twin = replace(two, folder=Path("rivers/d"))
    assert [method.label for method in methods([one, two, three, twin])] == [
        "x · gamma 10 · flag yes",
        "x · gamma 9 · flag no · b",
        "x · flag no",
        "x · gamma 9 · flag no · d",
    ]


def test_what_follows_from_the_drafter_is_no_part_of_a_name_but_a_condition_is() -> None:
    told = summary(scalars(1.5, 2.0, 0.5), 0.8)
    shared = {"rule": "auto", "gamma": 3}
    runs = [
        run("a", {"drafter": "chain", "batch": 1, **shared}, told),
        run("b", {"drafter": "chain", "batch": 8, **shared}, told),
        run("c", {"drafter": "tree", "batch": 1, "rule": "auto", "gamma": 5, "width": 2}, told),
    ]
    assert [one.label for one in methods(runs)] == [
        "chain · batch 1",
        "chain · batch 8",
        "tree · batch 1",
    ]
    runs.append(run("d", {**runs[2].axes, "gamma": 6}, told))  # a drafter with two values: all are told theirs
    assert [one.label.split(" · ")[-1] for one in methods(runs)] == ["gamma 3", "gamma 3", "gamma 5", "gamma 6"]


def test_runs_made_alike_are_told_together() -> None:
    told = summary(scalars(1.5, 2.0, 0.5), 0.8)
    later = environment(started="2030-01-02T05:00:00+00:00")
    dirty = environment(git={"commit": "abc", "dirty": True})
    runs = [run(str(i), axes("x", "r", i), told, environment=e) for i, e in enumerate([environment(), later, dirty])]
    first, second = origins(methods(runs))
    assert [method.key for method in first.methods] == [0, 1]
    assert first.started == "2030-01-02T03:04:05+00:00 to 2030-01-02T05:00:00+00:00"
    assert second.commit == "abc with local changes"


def test_with_little_room_each_category_keeps_a_text_before_any_has_two() -> None:
    named = methods(study())
    whole = token_view(named)
    assert [prompt["id"] for prompt in whole["prompts"]] == ["d1", "s1", "s2"]
    assert whole["left_out"] == 0
    size = 5 * max(sum(20 + len("ngram") + sum(4 + len(p) for p in step[0]) for step in STEPS) + 80, 1)
    some = token_view(named, room=2 * size)
    assert [prompt["id"] for prompt in some["prompts"]] == ["d1", "s1"]
    assert some["left_out"] == 1
    assert [len(some["texts"][0][prompt]) for prompt in (0, 1)] == [7, 6]
    assert len(token_view(named, room=0)["prompts"]) == 1


def test_a_small_study_makes_a_small_page(rivers: Path) -> None:
    assert rivers.stat().st_size < 1.2e6


def folder_of_runs(path: Path) -> Path:
    """A study on the disk: one job that is done, and one that failed."""
    stats = DecodingStats(output_tokens=2, passes=2, verify_seconds=1.0)
    step = StepRow(0, 0, 0, 5, 1, 1, 1, ["Hello", "!"], [True, False], None, "ngram")
    turn = TurnRow("Say hello.", "Hello!", [1, 2], "length", stats, None, None, None)
    row = PromptRow(0, "q", "greeting", None, [turn], 0, False, 0.1, [], 0.5, 0.1, [step])
    done, failed = RunFolder(path / "done"), RunFolder(path / "failed")
    done.begin({"a": 1}, axes("ngram", "token", 3), environment())
    done.append([row])
    done.finish([row], summary(scalars(1.5, 2.0, 0.5), 0.8))
    failed.begin({"a": 1}, axes("model", "token", 3), environment())
    failed.fail("ConfigError: no such model")
    return path


def report(*words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["specdec", "report", *words])
    cli.main()


def test_the_command_makes_a_page_of_run_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = folder_of_runs(tmp_path / "it's hello")
    report(str(study), monkeypatch=monkeypatch)
    assert capsys.readouterr().out.strip() == str(study / "index.html")
    text = (study / "index.html").read_text(encoding="utf-8")
    for part in ("<h1>it&#39;s hello</h1>", "1.50", "ConfigError: no such model", '"Hello"'):
        assert part in text
    monkeypatch.chdir(study)
    report(".", f"output={tmp_path / 'elsewhere.html'}", monkeypatch=monkeypatch)
    assert (tmp_path / "elsewhere.html").read_text(encoding="utf-8") == text
    with pytest.raises(SystemExit):
        report(f"study={tmp_path / 'nothing'}", monkeypatch=monkeypatch)
    assert "No run folders" in capsys.readouterr().err


def test_the_command_takes_pictures(
    chromium: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specdec.commands.report.browser", lambda: nullcontext(chromium))
    report(str(folder_of_runs(tmp_path / "hello")), f"screenshots={tmp_path / 'p'}", monkeypatch=monkeypatch)
    assert capsys.readouterr().out.split() == [
        str(tmp_path / name)
        for name in ("hello/index.html", "p/hello-desktop.png", "p/hello-dark.png", "p/hello-phone.png")
    ]


def test_pictures_have_the_size_of_their_screens(chromium: Any, rivers: Path, tmp_path: Path) -> None:
    made = screenshots(chromium, rivers, tmp_path, "rivers")
    sizes = {path.name: [int.from_bytes(path.read_bytes()[i : i + 4], "big") for i in (16, 20)] for path in made}
    assert sizes == {f"rivers-{view}.png": [size["width"], size["height"]] for view, (size, _) in VIEWS.items()}
