"""Charts as files, made by the page itself: read by programs that know nothing of it."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from specdec.commands.report import DRAWN, browser
from specdec.errors import ConfigError
from specdec.report.page import write_report
from tests.measure.studies import study

pytestmark = pytest.mark.xdist_group("browser")

Get = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page of the study in dark colours, from which `model` is filtered out."""
    path = write_report(study(), tmp_path_factory.mktemp("report") / "rivers.html", "it's rivers")
    with ExitStack() as stack:
        try:
            chromium = stack.enter_context(browser())
        except ConfigError:
            pytest.skip("no browser: apt-get install chromium, or python -m playwright install chromium,")
        page = chromium.new_page(color_scheme="dark", accept_downloads=True)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda told: complaints.append(told.text) if told.type == "error" else None)
        page.goto(path.as_uri() + "#hide.drafter=model")
        page.wait_for_selector(DRAWN, state="attached")
        yield page
        assert complaints == []


@pytest.fixture
def get(page: Any, tmp_path: Path) -> Get:
    """Clicks a button, and gives the file."""

    def got(figure: str, kind: str) -> Path:
        with page.expect_download() as waiting:
            page.locator(f"#figure-{figure}").get_by_role("button", name=kind.upper(), exact=True).click()
        assert waiting.value.suggested_filename == f"it-s-rivers-{figure}.{kind}"
        waiting.value.save_as(path := tmp_path / waiting.value.suggested_filename)
        return path

    return got


def test_an_svg_stands_alone_in_light_colours_with_its_legend(get: Get) -> None:
    text = get("positions", "svg").read_text(encoding="utf-8")
    drawing = ElementTree.fromstring(text)
    words = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert "var(" not in text
    assert "#0072b2" in text or "#c84e00" in text  # colours of light pages
    assert {"ngram · gumbel · γ 3", "ngram · gumbel · γ 5", "draft position"} <= set(words)
    assert not any("model" in (word or "") for word in words)  # the filter hides it


def test_a_png_has_three_pixels_for_one_of_the_svg(get: Get) -> None:
    drawing = ElementTree.parse(get("positions", "svg")).getroot()
    size = [float(drawing.attrib[name]) for name in ("width", "height")]
    data = get("positions", "png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = [int.from_bytes(data[i : i + 4], "big") for i in (16, 20)]
    assert all(abs(many - 3 * one) <= 3 for many, one in zip(pixels, size, strict=True))


def test_a_csv_has_the_rows_that_are_shown(get: Get) -> None:
    with get("speedup", "csv").open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["run"], first["method"], first["drafter"]) == ("ngram-3", "ngram · gumbel · γ 3", "ngram")
    assert [float(row["speedup"]) for row in (first, second)] == [1.625, 1.5]
    assert [float(row["tau"]) for row in (first, second)] == [2.125, 2.25]


def test_a_pdf_is_one_whole_page_of_vectors_and_words(get: Get) -> None:
    path = get("speedup", "pdf")
    data = path.read_bytes()
    assert data.startswith(b"%PDF-1.")
    start = int(re.findall(rb"startxref\n(\d+)\n%%EOF", data)[0])
    places = [int(place) for place in re.findall(rb"^(\d{10}) 00000 n ", data[start:], re.MULTILINE)]
    assert [data[place:].split(b" ", 1)[0] for place in places] == [b"%d" % number for number in range(1, 8)]
    [(length, content)] = re.findall(rb"<< /Length (\d+) >>\nstream\n(.*?)\nendstream", data, re.DOTALL)
    assert int(length) == len(content)
    assert content.split().count(b"q") == content.split().count(b"Q")
    assert b"/Image" not in data
    assert b"(ngram \xb7 gumbel \xb7 ) Tj" in content  # then the Greek letter, in its own font
    assert b"(g) Tj" in content
    words = {text: float(x) for x, text in re.findall(rb"([\d.]+) [\d.]+ Tm \(([^)]*)\) Tj", content)}
    unit = (words[b"1.8"] - words[b"1.4"]) / 0.4
    filled = [re.findall(rb"([\d.]+) [\d.]+ [ml]", path) for path in content.split(b"\n") if path.endswith(b" f")]
    middles = [fmean(map(float, path)) for path in filled[-2:]]
    assert middles[0] - middles[1] == pytest.approx(0.125 * unit, abs=1.0)  # of speedups 1.625 and 1.5
