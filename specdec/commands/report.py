"""The dashboard of a study: one HTML page that opens from a file, with no account and no network.

specdec report runs/<study> [--output FILE.html] [--screenshots FOLDER]

With --screenshots it also writes report-desktop.png and report-phone.png, as Chromium shows the page.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.errors import ConfigError
from specdec.measure.runs import load_runs
from specdec.report.page import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
NO_BROWSER = (
    "No browser was found. Install Chromium (apt-get install chromium), or Playwright's own: "
    "pip install playwright && python -m playwright install chromium."
)
DRAWN = "html[data-drawn]"
"""Selects something once all charts are there."""

SIZES = {"desktop": (1280, 1400), "phone": (390, 844)}
"""Width and height of the screenshots, in CSS pixels."""


@contextmanager
def browser() -> Iterator[Browser]:
    """The system's Chromium or Chrome, else Playwright's own.

    Raises:
        ConfigError: if there is neither.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise ConfigError(NO_BROWSER) from error
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        if not Path(found).exists():
            raise ConfigError(NO_BROWSER)
        started = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield started
        started.close()


def screenshots(chromium: Browser, page: Path, folder: Path) -> list[Path]:
    """Pictures of the top of a page, on a desk and on a phone.

    Args:
        chromium: takes them.
        page: the HTML file.
        folder: where they go.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, (width, height) in SIZES.items():
        tab = chromium.new_page(viewport={"width": width, "height": height})
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector(DRAWN)
        made.append(folder / f"report-{name}.png")
        tab.screenshot(path=made[-1])
        tab.close()
    return made


def main(words: list[str] | None = None) -> None:
    """Reads run folders, writes the page, says where it is."""
    parser = argparse.ArgumentParser(prog="specdec report", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path, help="folder of a study: runs/<study>")
    parser.add_argument("--output", type=Path, help="HTML file; default: index.html in the study's folder")
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of the page")
    options = parser.parse_args(words)
    try:
        page = write_report(
            load_runs(options.study), options.output or options.study / "index.html", options.study.name
        )
        print(page)
        if options.screenshots is not None:
            with browser() as chromium:
                print(*screenshots(chromium, page, options.screenshots), sep="\n")
    except ConfigError as error:
        sys.exit(str(error))
