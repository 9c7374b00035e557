"""The card of a head: how it was made, of what, and what it can do; everything in it was counted or measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from specdec.training.corpus import UNKNOWN
from specdec.training.given import marks
from specdec.training.prompts import GIVEN, MADE_UP, PASSAGE, SECOND, TASK
from specdec.training.settings import Settings

ORIGINS = {
    MADE_UP: "the target's, as the user (Magpie)",
    SECOND: "the target's, as the user, after an exchange",
    TASK: "templates of specdec (Apache-2.0)",
    PASSAGE: "templates of specdec about passages of installed packages",
    GIVEN: "files that were given",
    UNKNOWN: "not kept: made by an earlier version",
}
"""Source of prompts → whose words they are."""


def card(settings: Settings, record: Mapping[str, Any]) -> str:
    """The text, in Markdown.

    Args:
        settings: of the run.
        record: what the run wrote to training.json.
    """
    last = next((point for point in reversed(record["curves"]) if "held_out" in point), None)
    parts = [
        f"# A head for {_target(settings.target.get('path'))}",
        "Guesses the next tokens of this target, for speculative decoding: `specdec generate drafter=head "
        "drafter.head=FOLDER`. It changes no text, only how fast it comes.",
        "## How it was made",
        f"```\n{settings.command or 'specdec.training.run.Run(settings).train()'}\n```",
        _table([("seed", settings.seed), *_counts(settings, record)]),
        "## What it learnt from",
        _sources(settings, record["learnt"]),
        "## What it can do",
        "Held out: no figure." if last is None else _abilities(last["held_out"], record["tried"]),
        *_learning(record["curves"]),
        "## What it is bad at",
        *_worst(record["tried"]),
        f"Texts longer than {record['longest']} tokens: it saw none, nor what comes there. Languages and subjects that "
        "the target does not come to by itself. Any other target.",
    ]
    return "\n\n".join(parts) + "\n"


def _target(path: str | None) -> str:
    """Its name; of a folder, without the folders above it."""
    if path is None:
        return "SmolLM2-135M-Instruct"
    return Path(path).resolve().name if Path(path).exists() else path


def _counts(settings: Settings, record: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [
        ("answers, tokens", record["answer_tokens"]),
        ("tokens seen by the loss, all epochs", record["tokens"]),
        ("steps", record["step"]),
        ("hours, answers included", f"{record['elapsed'] / 3600:.2f}"),
        ("device", settings.device),
        ("draft vocabulary, tokens", settings.head.draft_vocab_size),
        ("its share of the answers' tokens", f"{record['coverage']:.2%}"),
    ]


def _sources(settings: Settings, learnt: Mapping[str, Any]) -> str:
    """What prompts are made of; answers are all the target's own."""
    rows = [(source, ORIGINS[source], one["answers"], one["tokens"]) for source, one in learnt.items()]
    lines = [_table(rows, ("prompts", "whose words", "answers", "their tokens"))]
    if PASSAGE in learnt:
        packages = [(name, licence(name)) for name in settings.mix.packages]
        lines.append(_table(packages, ("package", "version and licence")))
    if GIVEN in learnt:
        lines.append(f"Given: {', '.join(marks(settings.prompts))}. Their licence is not known here.")
    denied = ", ".join(settings.of_texts["deny"]) or "nothing"
    lines.append(
        f"Answers are the target's own, {settings.answers.drawn:.0%} drawn at temperature 1, the others greedy. "
        f"What shares 13 words in a row with these files was left out: {denied}. The head is weights; none of these "
        "texts is in it."
    )
    return "\n\n".join(lines)


def licence(package: str) -> str:
    """Version and licence of an installed package, as it states them; "python" is the standard library."""
    if package == "python":
        return "PSF-2.0"
    try:
        about = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return "not installed"
    kinds = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    text = [line for said in about.get_all("License") or [] for line in said.splitlines()[:1]]
    stated = [*(about.get_all("License-Expression") or []), *kinds, *text, "licence not stated"]
    return f"{about['Version']}, {stated[0]}"


def _abilities(held_out: Mapping[str, Any], tried: Mapping[str, Any]) -> str:
    """On greedy answers that it did not learn from."""
    rows = [
        (place, f"{hit:.3f}", f"{alive:.3f}")
        for place, (hit, alive) in enumerate(zip(held_out["accuracy"], held_out["survival"], strict=True), 1)
    ]
    head = ("position", "hits behind the true text", "drafts that are right up to here")
    places = [f"hits at {place}" for place in range(1, len(rows) + 1)]
    return "\n\n".join(
        [
            f"Greedy answers that were held out: τ = {held_out['tau']:.3f} tokens a pass.",
            _table(rows, head),
            "By where the prompts come from; hits are behind the true text:",
            _table([_line(*one) for one in tried.items()], ("prompts", "answers", "τ", *places)),
        ]
    )


def _learning(curves: Sequence[Mapping[str, Any]]) -> list[str]:
    """What it could do after so many tokens, if that was tried more than once."""
    tried = [point for point in curves if "held_out" in point]
    rows = [
        (point["step"], point["tokens"], f"{point['held_out']['accuracy'][0]:.3f}", f"{point['held_out']['tau']:.3f}")
        for point in tried
    ]
    head = ("step", "tokens seen", "hits at 1", "τ")
    return ["On the way there, on the same answers:", _table(rows, head)] if len(rows) > 1 else []


def _line(source: str, found: Mapping[str, Any]) -> list[object]:
    return [source, found["answers"], f"{found['tau']:.3f}", *(f"{hit:.3f}" for hit in found["accuracy"])]


def _worst(tried: Mapping[str, Any]) -> list[str]:
    """Where it helps least, if there is more than one kind of answers."""
    ranked = sorted((found["tau"], source) for source, found in tried.items())
    if len(ranked) < 2:
        return []
    (least, worst), (most, best) = ranked[0], ranked[-1]
    return [
        f"Answers to prompts of the kind “{worst}”: τ = {least:.3f}, of {tried[worst]['answers']} held out, where "
        f"“{best}” has {most:.3f}."
    ]


def _table(rows: Sequence[Sequence[object]], head: Sequence[str] = ("", "")) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
