"""The card of a head: how it was made, of what, and what it can do; everything in it was counted or measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from specdec.training.settings import Settings


def card(settings: Settings, record: Mapping[str, Any]) -> str:
    """The text, in Markdown.

    Args:
        settings: of the run.
        record: what the run wrote to training.json.
    """
    last = next((point for point in reversed(record["curves"]) if "held_out" in point), None)
    parts = [
        f"# A head for {settings.target.get('path') or 'SmolLM2-135M-Instruct'}",
        "Guesses the next tokens of this target, for speculative decoding: `specdec generate drafter=head "
        "drafter.head=FOLDER`. It changes no text, only how fast it comes.",
        "## How it was made",
        f"```\n{settings.command or 'specdec.training.run.Run(settings).train()'}\n```",
        _table([("seed", settings.seed), *_counts(settings, record)]),
        "## What it learnt from",
        _sources(settings),
        "## What it can do",
        "Held out: no figure." if last is None else _abilities(last["held_out"]),
        "## What it is bad at",
        f"Texts longer than {settings.batching.max_length} tokens, which it never saw; languages and subjects that the "
        "target does not come to by itself; any other target.",
    ]
    return "\n\n".join(parts) + "\n"


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


def _sources(settings: Settings) -> str:
    """What prompts are made of; answers are all the target's own."""
    mix = settings.mix
    own = 1 - mix.tasks - mix.passages - mix.second_turns
    shares = [
        ("made up by the target as the user (Magpie)", own),
        ("made up by the target as the user's second turn", mix.second_turns),
        ("templates of specdec (Apache-2.0)", mix.tasks),
        ("passages of installed packages", mix.passages),
    ]
    lines = [
        _table([(name, f"{share:.0%}") for name, share in shares], ("prompts, as far as they were tried", "share"))
    ]
    if mix.passages:
        lines.append(_table([(name, licence(name)) for name in mix.packages], ("package", "version and licence")))
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


def _abilities(held_out: Mapping[str, Any]) -> str:
    """On greedy answers that it did not learn from."""
    rows = [
        (place, f"{hit:.3f}", f"{alive:.3f}")
        for place, (hit, alive) in enumerate(zip(held_out["accuracy"], held_out["survival"], strict=True), 1)
    ]
    head = ("position", "hits behind the true text", "drafts that are right up to here")
    return f"Greedy answers that were held out: τ = {held_out['tau']:.3f} tokens a pass.\n\n{_table(rows, head)}"


def _table(rows: Sequence[Sequence[object]], head: Sequence[str] = ("", "")) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
