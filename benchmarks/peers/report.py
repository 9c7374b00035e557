"""From records to the report, a JSON object whose keys stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from statistics import median
from typing import Any

from benchmarks.peers.contenders import BASELINE, CONTENDERS, OURS, Contender
from benchmarks.peers.measure import Batch, Measured, Record

Found = Mapping[str, Measured]
BY_NAME = {contender.name: contender for contender in CONTENDERS}


def rates(record: Record, chosen: Sequence[bool] | None = None) -> list[float]:
    """Tokens/s of each repetition, over all batches or those that are chosen."""
    chosen = [True] * len(record.seconds[0]) if chosen is None else chosen
    return [
        sum(n for n, take in zip(tokens, chosen, strict=True) if take)
        / sum(s for s, take in zip(seconds, chosen, strict=True) if take)
        for tokens, seconds in zip(record.tokens, record.seconds, strict=True)
    ]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and range."""
    values = list(values)
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratio(over: Measured, under: Measured, chosen: Sequence[bool] | None = None) -> dict[str, float] | None:
    """Of tokens/s, formed within each repetition; None where the divisor produced nothing.

    Of two that were not measured side by side: the ratio of their ratios to the baseline; None if it took no part.
    """
    if over.baseline is under.baseline:
        return _quotients([rates(over.record, chosen)], [rates(under.record, chosen)])
    if over.baseline is None or under.baseline is None:
        return None
    own, other = rates(over.baseline, chosen), rates(under.baseline, chosen)
    return _quotients([rates(over.record, chosen), other], [rates(under.record, chosen), own])


def _quotients(over: Sequence[Sequence[float]], under: Sequence[Sequence[float]]) -> dict[str, float] | None:
    """Of the products over all factors, repetition by repetition."""
    pairs = [(prod(a), prod(b)) for a, b in zip(zip(*over, strict=True), zip(*under, strict=True), strict=True)]
    return spread(a / b for a, b in pairs) if all(b for _, b in pairs) else None


def same_as_plain(name: str, found: Found) -> dict[str, int] | None:
    """How many of a speculating contender's outputs equal its own engine's without speculation."""
    contender = BY_NAME[name]
    if contender.mode == "plain" or contender.plain not in found:
        return None
    pairs = [
        (ours, theirs)
        for batch, others in zip(found[name].record.outputs, found[contender.plain].record.outputs, strict=True)
        for ours, theirs in zip(batch, others, strict=True)
    ]
    return {"same": sum(ours == theirs for ours, theirs in pairs), "of": len(pairs)}


def contender_report(name: str, found: Found, batches: Sequence[Batch]) -> dict[str, Any]:
    """One contender at one batch size."""
    one = found[name]
    record, base = one.record, one.baseline
    return {
        "bits": BY_NAME[name].bits,
        "tokens_per_second": spread(rates(record)),
        "ratio_to_baseline": None if base is None else ratio(one, Measured(base, base)),
        "same_as_plain": same_as_plain(name, found),
        "same_in_every_repetition": record.repeated,
        "tokens": [sum(tokens) for tokens in record.tokens],
        "seconds": [sum(seconds) for seconds in record.seconds],
        "tokens_per_second_by_category": {
            category: median(rates(record, chosen)) for category, chosen in _categories(batches).items()
        },
    }


def batch_report(found: Found, batches: Sequence[Batch]) -> dict[str, Any]:
    """All contenders at one batch size."""
    return {
        "prompts": sum(len(batch.prompts) for batch in batches),
        "mean_batch": sum(len(batch.prompts) for batch in batches) / len(batches),
        "contenders": {name: contender_report(name, found, batches) for name in found},
    }


def fastest(found: Found, suits: Callable[[Contender], bool]) -> str | None:
    """The contender with the highest median among those that suit, as a multiple of the baseline beside it."""

    def speed(name: str) -> float:
        own, base = median(rates(found[name].record)), found[name].baseline
        return own if base is None else own / median(rates(base))

    return max((name for name in found if suits(BY_NAME[name])), key=speed, default=None)


def compared_pairs(found: Found) -> dict[str, tuple[str | None, str | None]]:
    """The ratios that matter: key → who is divided by whom. At equal precision, then at any, then of ours."""
    pairs: dict[str, tuple[str | None, str | None]] = {}
    precisions: list[int | None] = [*dict.fromkeys(BY_NAME[name].bits for name in found), None]
    for bits in precisions:
        ours, peers = fastest(found, _of(bits, True)), fastest(found, _of(bits, False))
        plain, plain_peer = fastest(found, _of(bits, True, "plain")), fastest(found, _of(bits, False, "plain"))
        of = "any_precision" if bits is None else f"{bits}_bits"
        pairs[f"{of}_ours_best_over_best_peer"] = ours, peers
        pairs[f"{of}_ours_plain_over_best_plain_peer"] = plain, plain_peer
        pairs[f"{of}_ours_best_over_ours_plain"] = ours, BY_NAME[ours].plain if ours else None
    pairs["same_file_ours_plain_over_llamacpp_plain"] = "ours-plain-gguf", "llamacpp-plain-q4_1"
    pairs["ours_plain_gguf_over_ours_plain_bf16"] = "ours-plain-gguf", BASELINE
    return pairs


def _of(bits: int | None, ours: bool, mode: str | None = None) -> Callable[[Contender], bool]:
    def suits(one: Contender) -> bool:
        return (one.engine == OURS) == ours and bits in (None, one.bits) and mode in (None, one.mode)

    return suits


def ratio_report(batch_size: int, found: Found, batches: Sequence[Batch]) -> dict[str, Any]:
    """The ratios that matter, as far as both sides are there, overall and by category."""
    return {
        f"batch{batch_size}_{key}": {
            "over": over,
            "under": under,
            "overall": ratio(found[over], found[under]),
            "by_category": {
                category: ratio(found[over], found[under], chosen) for category, chosen in _categories(batches).items()
            },
        }
        for key, (over, under) in compared_pairs(found).items()
        if over in found and under in found and over != under
    }


def _categories(batches: Sequence[Batch]) -> dict[str, list[bool]]:
    """Category → which batches belong to it."""
    names = dict.fromkeys(batch.category for batch in batches)
    return {name: [batch.category == name for batch in batches] for name in names}
