"""When does speculation pay? Predicted by the roofline twin over batch, context, model, acceptance and device.

python -m experiments.predict [device=H100] [model=Llama-3.1-8B] [draft=null] [dtype=bfloat16] [gamma=4]
    [markdown=docs/predictions.md] [plot=docs/predictions.svg]

Everything here is a prediction: data-sheet peaks, no measurement. On this CPU the twin is checked against the engine
by `python -m benchmarks.twin`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from experiments._words import Makers, or_none, parsed, several
from specdec.analysis.devices import DEVICES
from specdec.analysis.roofline import MODELS, Workload, predicted_speedup
from specdec.analysis.theory import expected_tokens
from specdec.errors import ConfigError

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (256, 1024, 4096, 16384, 65536)
ACCEPTANCES = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Study:
    """What is predicted.

    Args:
        device, model: names of `DEVICES` and `MODELS`.
        draft: name of a drafting model, or None for a drafter that costs nothing.
        dtype: form of the weights.
        gamma: draft tokens a step.
        markdown, plot: files to write, or None.
    """

    device: str = "H100"
    model: str = "Llama-3.1-8B"
    draft: str | None = None
    dtype: str = "bfloat16"
    gamma: int = 4
    markdown: Path | None = None
    plot: Path | None = None

    def __post_init__(self) -> None:
        for what, value, valid in (("device", self.device, DEVICES), ("model", self.model, MODELS)):
            if value not in valid:
                raise ConfigError(f"Unknown {what} {value!r}. Valid names: {', '.join(valid)}.")
        if self.draft is not None and self.draft not in MODELS:
            raise ConfigError(f"Unknown draft {self.draft!r}. Valid names: {', '.join(MODELS)}, or null.")

    def speedup(self, batch: int, context: int, acceptance: float) -> float | None:
        """Predicted; None where weights and cache do not fit the device."""
        workload = Workload(MODELS[self.model], DEVICES[self.device], batch, context, self.dtype)
        drafter = None if self.draft is None else MODELS[self.draft]
        return predicted_speedup(workload, acceptance, self.gamma, drafter) if workload.fits() else None


WORDS: Makers = {
    **several(("device", "model", "dtype"), str),
    "draft": or_none(str),
    "gamma": int,
    **several(("markdown", "plot"), or_none(Path)),
}


def table(study: Study, acceptance: float = 0.8) -> str:
    """Markdown: batches down, contexts across."""
    lines = [
        f"| batch | {' | '.join(f'{context} tokens' for context in CONTEXTS)} |",
        "|" + "---|" * (len(CONTEXTS) + 1),
    ]
    for batch in BATCHES:
        cells = [study.speedup(batch, context, acceptance) for context in CONTEXTS]
        lines.append(f"| {batch} | {' | '.join('does not fit' if c is None else f'{c:.2f}' for c in cells)} |")
    return "\n".join(lines) + "\n"


def by_acceptance(study: Study) -> str:
    """Markdown: acceptance down, devices across, one sequence."""
    lines = [f"| α | τ | {' | '.join(DEVICES)} |", "|" + "---|" * (len(DEVICES) + 2)]
    for acceptance in ACCEPTANCES:
        cells = []
        for device in DEVICES:
            own = Study(device, study.model, study.draft, study.dtype, study.gamma)
            value = own.speedup(1, 1024, acceptance)
            cells.append("does not fit" if value is None else f"{value:.2f}")
        lines.append(f"| {acceptance} | {expected_tokens(acceptance, study.gamma):.2f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(study: Study, path: Path) -> None:
    """Speedup by batch, a line a context."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for context in CONTEXTS:
        points = [(batch, value) for batch in BATCHES if (value := study.speedup(batch, context, 0.8)) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=f"{context} tokens")
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(BATCHES, [str(batch) for batch in BATCHES])
    axes.set_xlabel("sequences in a batch")
    axes.set_ylabel("predicted speedup over plain decoding")
    axes.set_title(
        f"PREDICTION: {study.model}, {study.device}, α = 0.8, γ = {study.gamma}, draft: {study.draft or 'free'}"
    )
    axes.legend(title="context")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Predicts, prints, writes what was asked for."""
    try:
        study = Study(**parsed(sys.argv[1:], WORDS))
    except ConfigError as error:
        sys.exit(str(error))
    about = f"{study.model} in {study.dtype}, γ = {study.gamma}, draft: {study.draft or 'costs nothing'}"
    text = (
        "# Predictions\n\nBy the roofline twin (specdec/analysis/roofline.py) from data-sheet peaks. "
        "Nothing here was measured.\n\n"
        f"`python -m experiments.predict {' '.join(sys.argv[1:])}`\n\n"
        f"## {about}, on {study.device}, α = 0.8: speedup over plain decoding\n\n{table(study)}\n"
        f"## The same for one sequence of 1024 tokens\n\n{by_acceptance(study)}"
    )
    print(text)
    if study.plot is not None:
        draw(study, study.plot)
        text += f"\n![Predicted speedup by batch and context]({study.plot.name})\n"
    if study.markdown is not None:
        study.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
