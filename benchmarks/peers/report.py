"""From records to the report, a JSON object whose keys stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.peers.contenders import BASELINE, CONTENDERS, OURS
from benchmarks.peers.measure import Batch, Record

Records = Mapping[str, Record]
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


def ratio(over: Record, under: Record, chosen: Sequence[bool] | None = None) -> dict[str, float] | None:
    """Of tokens/s, formed within each repetition; None where the divisor produced nothing."""
    pairs = list(zip(rates(over, chosen), rates(under, chosen), strict=True))
    return spread(a / b for a, b in pairs) if all(b for _, b in pairs) else None


def same_as_plain(name: str, records: Records) -> dict[str, int] | None:
    """How many of a speculating contender's outputs equal its own engine's without speculation."""
    contender = BY_NAME[name]
    if contender.mode == "plain" or contender.plain not in records:
        return None
    pairs = [
        (ours, theirs)
        for batch, others in zip(records[name].outputs, records[contender.plain].outputs, strict=True)
        for ours, theirs in zip(batch, others, strict=True)
    ]
    return {"same": sum(ours == theirs for ours, theirs in pairs), "of": len(pairs)}


def contender_report(name: str, records: Records, batches: Sequence[Batch]) -> dict[str, Any]:
    """One contender at one batch size."""
    record, base = records[name], records.get(BASELINE)
    return {
        "tokens_per_second": spread(rates(record)),
        "ratio_to_baseline": None if base is None else ratio(record, base),
        "same_as_plain": same_as_plain(name, records),
        "same_in_every_repetition": record.repeated,
        "tokens": [sum(tokens) for tokens in record.tokens],
        "seconds": [sum(seconds) for seconds in record.seconds],
        "tokens_per_second_by_category": {
            category: median(rates(record, chosen)) for category, chosen in _categories(batches).items()
        },
    }


def batch_report(records: Records, batches: Sequence[Batch]) -> dict[str, Any]:
    """All contenders at one batch size."""
    return {
        "prompts": sum(len(batch.prompts) for batch in batches),
        "mean_batch": sum(len(batch.prompts) for batch in batches) / len(batches),
        "contenders": {name: contender_report(name, records, batches) for name in records},
    }


def fastest(records: Records, suits: Callable[[str], bool]) -> str | None:
    """The peer with the highest median among those that suit."""
    names = [name for name in records if BY_NAME[name].engine != OURS and suits(name)]
    return max(names, key=lambda name: median(rates(records[name])), default=None)


def compared_pairs(batch_size: int, records: Records) -> dict[str, tuple[str, str | None]]:
    """The ratios that matter: key → who is divided by whom."""
    speculating = fastest(records, lambda name: BY_NAME[name].mode != "plain")
    any_peer = fastest(records, lambda name: True)
    if batch_size == 1:
        return {
            "ours_plain_over_llamacpp_plain": (BASELINE, "llamacpp-plain-bf16"),
            "ours_plain_over_vllm_plain": (BASELINE, "vllm-plain-bf16"),
            "ours_plain_int8_over_llamacpp_q8_0": ("ours-plain-int8", "llamacpp-plain-q8_0"),
            "ours_ngram_over_best_peer_speculation": ("ours-ngram-bf16", speculating),
            "ours_ngram_int8_over_best_peer_speculation": ("ours-ngram-int8", speculating),
            "ours_ngram_int8_over_best_peer": ("ours-ngram-int8", any_peer),
            "ours_ngram_over_ours_plain": ("ours-ngram-bf16", BASELINE),
        }
    return {
        "ours_plain_over_vllm_plain": (BASELINE, "vllm-plain-bf16"),
        "ours_ngram_over_best_peer_speculation": ("ours-ngram-bf16", speculating),
        "ours_ngram_over_ours_plain": ("ours-ngram-bf16", BASELINE),
        "ours_ngram_int8_over_ours_plain_int8": ("ours-ngram-int8", "ours-plain-int8"),
    }


def ratio_report(batch_size: int, records: Records, batches: Sequence[Batch]) -> dict[str, Any]:
    """The ratios that matter, as far as both sides are there, overall and by category."""
    return {
        f"batch{batch_size}_{key}": {
            "over": over,
            "under": under,
            "overall": ratio(records[over], records[under]),
            "by_category": {
                category: ratio(records[over], records[under], chosen)
                for category, chosen in _categories(batches).items()
            },
        }
        for key, (over, under) in compared_pairs(batch_size, records).items()
        if over in records and under in records
    }


def _categories(batches: Sequence[Batch]) -> dict[str, list[bool]]:
    """Category → which batches belong to it."""
    names = dict.fromkeys(batch.category for batch in batches)
    return {name: [batch.category == name for batch in batches] for name in names}
