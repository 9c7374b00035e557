"""What each precision costs in quality and takes in memory.

python -m benchmarks.perplexity [--json FILE] [--windows 8] [--length 512] [--text FILE]

Perplexity on real English prose and code: the language reference that comes with Python, unless another file is given.
Every variant reads the same windows; ratios are to bfloat16.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from pydoc_data.topics import topics
from statistics import mean

import torch

from specdec.cache import PagedCache
from specdec.measure.environment import machine
from specdec.measure.results import save
from specdec.models.base import CausalLM
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.models.loading import LoadedModel, load
from specdec.models.native import NativeModel
from specdec.sampling import log_probability

REFERENCE = "bfloat16"


@dataclass(frozen=True)
class Variant:
    """One way to hold weights and cache: arguments of `load`."""

    name: str
    dtype: str
    kv_dtype: str | None = None
    smoothing: float | None = 0.5

    def load(self) -> LoadedModel:
        """The embedded model, held so."""
        return load(dtype=self.dtype, kv_dtype=self.kv_dtype, smoothing=self.smoothing)


VARIANTS = (
    Variant("float32", "float32"),
    Variant(REFERENCE, "bfloat16"),
    Variant("bfloat16, int8 cache", "bfloat16", "int8"),
    Variant("int8, weights alone", "int8_weight"),
    Variant("int4", "int4"),
    Variant("gguf, the file's own blocks", "gguf"),
    Variant("int8, no smoothing", "int8", smoothing=None),
    *(Variant(f"int8, α = {alpha}", "int8", smoothing=alpha) for alpha in (0.3, 0.5, 0.7)),
    Variant("int8, α = 0.5, int8 cache", "int8", "int8"),
)


def reference_text() -> str:
    """The language reference that comes with Python: prose and code."""
    return "\n".join(topics[name] for name in sorted(topics))


def windows(tokenizer: object, text: str, number: int, length: int) -> list[list[int]]:
    """Token ids of `number` windows, spread evenly over the text."""
    tokens = tokenizer.encode(text, add_special_tokens=False)  # type: ignore[attr-defined]
    stride = max(length, len(tokens) // number)
    return [tokens[start : start + length] for start in range(0, stride * number, stride)]


@torch.inference_mode()
def perplexity(model: CausalLM, texts: Sequence[Sequence[int]]) -> float:
    """exp of the mean negative log-probability of every token but the first of its window."""
    cache = PagedCache(model.kv_layout, num_blocks=-(-max(map(len, texts)) // 16))
    losses: list[float] = []
    for text in texts:
        cache.add(0)
        cache.reserve(0, len(text))
        rows = SequenceRows(list(text), cache.slots(0), 0, logit_rows=range(len(text) - 1))
        losses += (-log_probability(model.run(RaggedBatch.build([rows]), cache.target).logits, list(text[1:]))).tolist()
        cache.free(0)
    return exp(mean(losses))


def measure(variant: Variant, text: str, number: int, length: int) -> dict[str, float]:
    """Perplexity, bytes of the weights that a pass reads, and bytes that a token takes in the cache."""
    loaded = variant.load()
    assert isinstance(loaded.model, NativeModel)
    return {
        "perplexity": perplexity(loaded.model, windows(loaded.tokenizer, text, number, length)),
        "weight_bytes": loaded.model.num_bytes,
        "cache_bytes_per_token": loaded.model.kv_layout.bytes_per_token(),
    }


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    base = results[REFERENCE]["perplexity"]
    lines = ["| held as | perplexity | to bfloat16 | weights, MB | cache, bytes a token |", "|---|---|---|---|---|"]
    for name, result in results.items():
        own = result["perplexity"]
        lines.append(
            f"| {name} | {own:.3f} | {own / base:.4f} | {result['weight_bytes'] / 1e6:.0f} "
            f"| {result['cache_bytes_per_token']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and prints; writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--text", type=Path, help="a text file of your own")
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8") if args.text else reference_text()
    results = {variant.name: measure(variant, text, args.windows, args.length) for variant in VARIANTS}
    print(machine(), "", table(results), sep="\n")
    save(args.json, "benchmarks.perplexity", results, windows=args.windows, length=args.length)


if __name__ == "__main__":
    main()
