"""What a person at a terminal sees: streamed text in colour, and the closing table."""

from __future__ import annotations

from itertools import zip_longest

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from specdec.engine.outputs import StreamEvent
from specdec.measure.compare import Comparison
from specdec.prompts.entry import Prompt, words

MAX_POSITIONS = 5
DRAFTED_STYLE = "bold green"


class ConsoleReport:
    """Prints a comparison as it runs, and its result at the end."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def legend(self, drafter: str, rule: str) -> None:
        """Says what the colours mean."""
        legend = Text(f"drafter {drafter}, rule {rule}: ")
        legend.append("accepted draft tokens", style=DRAFTED_STYLE).append(", tokens that the target added itself")
        self.console.print(legend)

    def prompt(self, label: str, prompt: Prompt) -> None:
        """Announces a prompt by its last 200 characters."""
        text = words(prompt)
        self.console.rule(f"[bold]{label}")
        self.console.print(Text(text if len(text) <= 200 else f"… {text[-200:]}", style="dim"))

    def event(self, event: StreamEvent) -> None:
        """Prints the text that became certain."""
        for piece in event.pieces:
            self.console.print(Text(piece.text, style=DRAFTED_STYLE if piece.drafted else ""), end="", soft_wrap=True)
        if event.generation is not None:
            self.console.print()

    def table(self, comparison: Comparison) -> None:
        """Prints the figures of every prompt and, of several, of all together, one column each."""
        table = Table(title="Plain and speculative decoding: same engine, same run, interleaved", box=box.SIMPLE_HEAD)
        table.add_column("")
        pairs = comparison.pairs
        same = ["yes" if pair.identical else "NO" for pair in pairs]
        parts, labels = [Comparison([pair]) for pair in pairs], [pair.label for pair in pairs]
        if len(pairs) > 1:
            same.append(f"{comparison.num_identical}/{len(pairs)}")
            parts.append(comparison)
            labels.append("all")
        columns = [
            _column(part, cell if comparison.comparable else "–") for part, cell in zip(parts, same, strict=True)
        ]
        for label in labels:
            table.add_column(label, justify="right")
        for name in columns[0]:
            table.add_row(name, *(column[name] for column in columns))
        self.console.print(table)
        low, middle, high = comparison.spread
        spread = f"Ratio of a prompt: median {middle:.2f}, from {low:.2f} to {high:.2f}. " if len(pairs) > 1 else ""
        self.console.print(
            f"{spread}τ: tokens per target pass. α: accepted share of the tested draft tokens. "
            "Prefill is not in tokens/s."
        )

    def note(self, text: str) -> None:
        """Prints a sentence on the figures."""
        self.console.print(Text(text))


def _column(comparison: Comparison, identical: str) -> dict[str, str]:
    """Row name → cell, for one prompt or all of them."""
    plain, speculative = comparison.plain, comparison.speculative
    total = speculative.decode_seconds or 1.0
    parts = (speculative.draft_seconds, speculative.verify_seconds, speculative.host_seconds)
    positions = zip_longest(speculative.acceptance_by_position[:MAX_POSITIONS], range(MAX_POSITIONS))
    return {
        "tokens/s plain": f"{plain.tokens_per_second:.1f}",
        "tokens/s speculative": f"{speculative.tokens_per_second:.1f}",
        "ratio": f"{comparison.speedup:.2f}" if comparison.credible else "> τ: measure again",
        "τ": f"{speculative.mean_accepted_length:.2f}",
        "α": f"{speculative.acceptance_rate:.2f}",
        **{f"α at position {i + 1}": "" if share is None else f"{share:.2f}" for share, i in positions},
        **{
            f"time: {name}": f"{part / total:.0%}"
            for name, part in zip(("draft", "verify", "host"), parts, strict=True)
        },
        "identical output": identical,
    }
