"""The page of a run of `specdec train`: its curves and its counts, in one HTML file without scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from specdec.errors import ConfigError
from specdec.places import write

RECORD = "training.json"
COUNTS = {"answer_tokens": "tokens of answers", "tokens": "tokens seen by the loss", "step": "steps",
          "best": "best simulated τ", "coverage": "share that can be drafted", "elapsed": "seconds"}  # fmt: skip
STYLE = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}svg{max-width:100%}"


def is_training(folder: Path) -> bool:
    """Whether a folder is one of `specdec train`."""
    return (folder / RECORD).is_file()


def write_curves(folder: Path, path: Path, title: str) -> Path:
    """Writes the page.

    Args:
        folder: of the run.
        path: of the page.
        title: over it.

    Raises:
        ConfigError: if the record is damaged.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        curves, counts = charts(record["curves"]), [(words, record[name]) for name, words in COUNTS.items()]
        kinds = _by_source(record.get("tried", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / RECORD} is damaged: {error!r}. Run the training again.") from error
    rows = "".join(f"<tr><th align=left>{escape(words)}</th><td>{_shown(value)}</td></tr>" for words, value in counts)
    figures = "".join(f"<h2>{escape(name)}</h2>{vl_convert.vegalite_to_svg(spec)}" for name, spec in curves.items())
    write(
        path,
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{escape(title)}</h1><table>{rows}</table>{kinds}{figures}</html>\n",
    )
    return path


def _by_source(tried: Mapping[str, Any]) -> str:
    """Held-out answers by where their prompts come from; nothing of a run that did not count them apart."""
    heads = "".join(f"<th align=left>{name}</th>" for name in ("prompts", "answers", "simulated τ", "hits at 1, 2, …"))
    rows = "".join(
        f"<tr><td>{escape(source)}</td><td>{one['answers']}</td><td>{one['tau']:.3f}</td>"
        f"<td>{' '.join(f'{hit:.3f}' for hit in one['accuracy'])}</td></tr>"
        for source, one in tried.items()
    )
    return f"<h2>Held-out answers by kind of prompt</h2><table><tr>{heads}</tr>{rows}</table>" if rows else ""


def charts(curves: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Title → Vega-Lite specification; those that there are points for."""
    held = [{"tokens": point["tokens"], **point["held_out"]} for point in curves if "held_out" in point]
    made = {
        "Loss": _lines([{"tokens": point["tokens"], "loss": point["loss"]} for point in curves], "loss"),
        "Hits by position, behind the true text": _lines(_by_position(curves, "accuracy"), "share", "position"),
        "Chance of acceptance by position, temperature 1": _lines(
            _by_position(curves, "acceptance"), "share", "position"
        ),
        "Simulated τ on held-out answers": _lines([{"tokens": one["tokens"], "τ": one["tau"]} for one in held], "τ"),
        "Drafts that are right up to a position, held-out answers": _lines(
            _by_position(held, "survival"), "share", "position"
        ),
    }
    return {title: spec for title, spec in made.items() if spec["data"]["values"]}


def _by_position(points: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    return [
        {"tokens": point["tokens"], "share": share, "position": place}
        for point in points
        for place, share in enumerate(point[name], 1)
    ]


def _lines(records: list[dict[str, Any]], value: str, kind: str | None = None) -> dict[str, Any]:
    chart = alt.Chart(width=720, height=240).mark_line(point=True)
    chart = chart.encode(
        x=alt.X("tokens:Q", title="tokens seen"), y=alt.Y(f"{value}:Q", scale=alt.Scale(zero=False), title=value)
    )
    if kind is not None:
        chart = chart.encode(color=alt.Color(f"{kind}:O", title=kind))
    return {**chart.to_dict(), "data": {"values": records}}


def _shown(value: float) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
