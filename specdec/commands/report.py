"""The dashboard of a study: one HTML page that opens from a file, with no account and no network.

specdec report runs/<study> [output=FILE.html] [screenshots=FOLDER]
specdec report runs/<before> runs/<after>

With screenshots=FOLDER Chromium also takes pictures of the page: <study>-desktop.png, <study>-dark.png and
<study>-phone.png. The folder of a run of `specdec train` has a page of its curves. With two studies the page compares
them, job by job.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from omegaconf import DictConfig

from specdec.commands.application import application
from specdec.errors import ConfigError
from specdec.measure.planned import load_study
from specdec.measure.runs import load_runs
from specdec.places import check_folder, check_writable
from specdec.report.changes import changes, together
from specdec.report.page import write_report
from specdec.report.training import is_training, write_curves
from specdec.study.plan import values_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ViewportSize

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
NO_BROWSER = (
    "No browser was found. Install Chromium (apt-get install chromium), or Playwright's own: "
    "pip install playwright && python -m playwright install chromium."
)
DRAWN = "html[data-drawn]"
"""Selects something once all charts are there."""

VIEWS: dict[str, tuple[ViewportSize, Literal["light", "dark"]]] = {
    "desktop": ({"width": 1120, "height": 680}, "light"),
    "dark": ({"width": 1120, "height": 680}, "dark"),
    "phone": ({"width": 390, "height": 844}, "light"),
}
"""Screenshot → size of the window, in CSS pixels, and colours."""


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
        path = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        if not Path(path).exists():
            raise ConfigError(NO_BROWSER)
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


def screenshots(chromium: Browser, page: Path, folder: Path, name: str) -> list[Path]:
    """Pictures of the top of a page, one for each of `VIEWS`.

    Args:
        chromium: takes them.
        page: the HTML file.
        folder: where they go.
        name: with which their names begin.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for view, (size, colors) in VIEWS.items():
        tab = chromium.new_page(viewport=size, color_scheme=colors)
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector(DRAWN)
        files.append(folder / f"{name}-{view}.png")
        tab.screenshot(path=files[-1])
        tab.close()
    return files


def _report(config: DictConfig) -> None:
    """Reads run folders, writes the page, says where it is."""
    study, path = Path(config.study), _path(config)
    title = study.resolve().name
    if is_training(study):
        print(write_curves(study, path, title))
        return
    page = _compare(study, Path(config.after), path) if config.after else write_report(load_study(study), path, title)
    print(page)
    if config.screenshots is not None:
        with browser() as chromium:
            print(*screenshots(chromium, page, Path(config.screenshots), title), sep="\n")


def _compare(study: Path, later: Path, path: Path) -> Path:
    """Writes the page of two studies.

    Raises:
        ConfigError: if no job is done in both.
    """
    before, after = load_runs(study), load_runs(later)
    names = study.resolve().name, later.resolve().name
    if names[0] == names[1]:
        names = f"{study.resolve().parent.name}/{names[0]}", f"{later.resolve().parent.name}/{names[1]}"
    found = changes(before, after)
    if not found:
        raise ConfigError(f"No job is done with the same settings in {study} and {later}. Give two runs of one study.")
    return write_report(together(before, after, names), path, " → ".join(names), found)


def _path(config: DictConfig) -> Path:
    """Of the page."""
    usual = Path(config.study) / "index.html" if config.after is None else Path(config.after) / "changes.html"
    return Path(config.output or usual)


def _check(config: DictConfig) -> None:
    values_of(config)
    check_writable("output", _path(config))
    if config.screenshots is not None:
        check_folder("screenshots", config.screenshots)


main = application("report", _report, _check, word="study", second="after")
