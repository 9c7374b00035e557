"""What a person at a terminal sees: streamed text in colour, and the closing table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from specdec.generator import Prompt, StreamEvent
from specdec.tracking.compare import Comparison, credible
from specdec.tracking.metrics import DecodingStats

DRAFTED_STYLE = "bold green"


class ConsoleReport:
    """Prints a comparison as it runs, and its result at the end."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()

    def legend(self, drafter: str, rule: str) -> None:
        """Says what the colours mean."""
        legend = Text(f"drafter {drafter}, rule {rule}: ")
        legend.append("accepted draft tokens", style=DRAFTED_STYLE).append(", tokens that the target added itself")
        self.console.print(legend)

    def prompt(self, label: str, prompt: Prompt) -> None:
        """Announces a prompt by its last 200 characters."""
        text = prompt if isinstance(prompt, str) else "".join(m["content"] for m in prompt if isinstance(m, dict))
        self.console.rule(f"[bold]{label}")
        self.console.print(Text(text if len(text) <= 200 else f"… {text[-200:]}", style="dim"))

    def event(self, event: StreamEvent) -> None:
        """Prints the text that became certain."""
        for piece in event.pieces:
            self.console.print(Text(piece.text, style=DRAFTED_STYLE if piece.drafted else ""), end="", soft_wrap=True)
        if event.generation is not None:
            self.console.print()

    def table(self, comparison: Comparison) -> None:
        """Prints the figures of every prompt and of all together."""
        table = Table(title="Plain and speculative decoding, same engine, interleaved")
        table.add_column("prompt")
        columns = [
            "tokens/s plain",
            "tokens/s spec.",
            "ratio",
            "τ",
            "α",
            "α by position",
            "draft/verify/host",
            "identical",
        ]
        for column in columns:
            table.add_column(column, justify="right")
        for pair in comparison.pairs:
            identical = "yes" if pair.identical else "no"
            table.add_row(pair.label, *_cells(pair.plain.stats, pair.speculative.stats, pair.speedup), identical)
        table.add_section()
        identical = f"{comparison.num_identical}/{len(comparison.pairs)}"
        table.add_row("all", *_cells(comparison.plain, comparison.speculative, comparison.speedup), identical)
        self.console.print(table)
        low, middle, high = comparison.spread
        self.console.print(
            f"Ratio per prompt: median {middle:.2f}, from {low:.2f} to {high:.2f}. τ: tokens per target pass; "
            "α: share of tested draft tokens that were accepted. Prefill is not in tokens/s."
        )


def _cells(plain: DecodingStats, speculative: DecodingStats, speedup: float) -> list[str]:
    tau = speculative.mean_accepted_length
    total = speculative.decode_seconds or 1.0
    parts = (speculative.draft_seconds, speculative.verify_seconds, speculative.host_seconds)
    return [
        f"{plain.tokens_per_second:.1f}",
        f"{speculative.tokens_per_second:.1f}",
        f"{speedup:.2f}" if credible(speedup, tau) else "> τ: not credible, measure again",
        f"{tau:.2f}",
        f"{speculative.acceptance_rate:.2f}",
        " ".join(f"{share:.2f}" for share in speculative.acceptance_by_position),
        "/".join(f"{part / total:.0%}" for part in parts),
    ]
