"""Traces: a replay gives the run's own verdicts, other rules what they would accept, and files keep every bit."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from specdec import ConfigError, EngineLoop, SamplingParams
from specdec.analysis.traces import Trace, TraceStep, load_trace, record, save_trace
from specdec.analysis.traces.compact import compacted
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.model import ModelDrafter
from specdec.engine import Engine, EngineConfig
from specdec.errors import InvalidRequestError, NumericalError
from specdec.models.loading import LoadedModel
from specdec.prompts import load_prompts
from specdec.registry import RULES
from specdec.stats import DecodingStats
from specdec.verify.base import Rule
from specdec.verify.select import select_rule
from specdec.verify.token import TokenRule
from tests.engines import DRAFTERS, hopeless, run, small_engine
from tests.fewer import every
from tests.tiny import VOCAB_SIZE, llama, llama_module

pytestmark = pytest.mark.fewer(3)

PROMPTS = [[1, 2, 3, 4], [9, 8, 7, 9, 8, 7], [5] * 6]
WARM = SamplingParams(max_tokens=24, temperature=1.5, seed=5)
GREEDY = SamplingParams(max_tokens=24)
COUNTS = ("passes", "output_tokens", "drafted_tokens", "tested_at", "accepted_at")
ONE_CANDIDATE = ["token", "block", "multiround", "rrs", "kseq", "traversal", "hsd"]
"""Rules whose candidates, one a node, are draws from q."""
MISTAKE = 1e-6
"""Chance that a test with a Hoeffding bound fails although all is well, had its seeds been drawn at random."""


def counts(stats: DecodingStats) -> dict[str, object]:
    return {name: getattr(stats, name) for name in COUNTS}


def accepted_per_pass(stats: DecodingStats) -> float:
    return stats.accepted_tokens / stats.passes


def replayed(trace: Trace, rule: str | Rule, num_seeds: int, num_draft_tokens: int | None = None) -> float:
    """Mean accepted draft tokens a step, over the trace and so many seeds."""
    runs = (trace.replay(rule, seed=seed, num_draft_tokens=num_draft_tokens) for seed in range(num_seeds))
    return accepted_per_pass(DecodingStats.total(runs))


def hoeffding(n: int, span: float) -> float:
    """With a chance of 1 - MISTAKE the mean of n numbers in [0, span] is no further from its expectation."""
    return span * math.sqrt(math.log(2 / MISTAKE) / (2 * n))


@cache
def recorded(drafter: str, rule: str = "auto", top_k: int | None = None, greedy: bool = False) -> Trace:
    params = GREEDY if greedy else WARM
    return record(EngineLoop(small_engine(DRAFTERS[drafter](), rule)), PROMPTS, params, top_k=top_k)


@cache
def long_trace() -> Trace:
    """Early-exit chains of 4 at every position of 18 texts, over a thousand, with moderate overlap of p and q."""
    prompts = [[t, 63 - t, t // 2] for t in range(18)]
    params = SamplingParams(max_tokens=60, temperature=1.5, seed=1)
    params_each = [replace(params, seed=i) for i in range(len(prompts))]
    engine = small_engine(EarlyExitDrafter(4, num_layers=1), "token")
    return record(EngineLoop(engine), prompts, params_each, every_position=True)


def combinations() -> list[tuple[str, str, bool]]:
    """Every rule with every drafter that it can judge, sampled; and greedy."""
    made = [(name, "greedy", True) for name in DRAFTERS]
    for (name, make), rule in itertools.product(DRAFTERS.items(), RULES.names()):
        drafter = make()
        try:
            select_rule(rule, WARM, drafter.deterministic, drafter.trees)
        except ConfigError:
            continue
        made.append((name, rule, False))
    return made


@pytest.mark.parametrize(("drafter", "rule", "greedy"), every(3, combinations()))
def test_a_replay_with_the_recorded_numbers_gives_the_counts_of_the_run(drafter: str, rule: str, greedy: bool) -> None:
    requests = run(small_engine(DRAFTERS[drafter](), rule), PROMPTS, GREEDY if greedy else WARM)
    trace = recorded(drafter, rule, greedy=greedy)
    own = DecodingStats.total(request.stats for request in requests)
    assert [list(text) for text in trace.texts] == [request.tokens for request in requests]
    assert counts(trace.replay(rule)) == counts(own)
    assert own.passes > 20
    assert trace.replay(rule).mean_accepted_length == own.mean_accepted_length


def test_the_recordings_are_of_runs_that_accept_and_refuse() -> None:
    for drafter, rule in (
        ("model", "block"),
        ("model tree", "traversal"),
        ("ngram", "typical"),
        ("early exit", "gumbel"),
    ):
        stats = recorded(drafter, rule).replay(rule)
        assert 0 < stats.accepted_tokens < sum(stats.tested_at)
    assert recorded("model tree", "rrs").branches == 3
    assert recorded("model", "rrs").branches == 1
    assert recorded("none").branches == 0


def test_every_position_of_the_targets_own_text_is_an_anchor_and_rules_do_not_move_it() -> None:
    plain = run(small_engine(DRAFTERS["none"](), "token"), PROMPTS, WARM)
    for rule in ("token", "traversal"):
        trace = record(EngineLoop(small_engine(DRAFTERS["model"](), rule)), PROMPTS, WARM, every_position=True)
        assert [list(text) for text in trace.texts] == [request.tokens for request in plain]
        for index, request in enumerate(plain):
            anchors = [step.anchor for step in trace.steps if step.request == index]
            assert anchors == list(range(len(request.prompt), len(request.tokens)))


def test_recording_leaves_the_run_as_it_is_and_the_engine_empty() -> None:
    engine = small_engine(DRAFTERS["model"](), "block")
    record(EngineLoop(engine), PROMPTS, WARM)
    assert not engine.has_work
    assert engine.cache.num_free_blocks == engine.cache.num_blocks
    assert counts(DecodingStats.total(r.stats for r in run(engine, PROMPTS, WARM))) == counts(
        recorded("model", "block").replay("block")
    )


@pytest.mark.parametrize("rule", ONE_CANDIDATE)
@pytest.mark.parametrize("source", ["token", "traversal"])
def test_on_chains_rules_of_one_family_judge_each_others_drafts(rule: str, source: str) -> None:
    stats = recorded("model", source).replay(rule)
    assert stats.passes == recorded("model", source).replay(source).passes
    twins = {"multiround": "token", "rrs": "token", "kseq": "token", "traversal": "block", "hsd": "block"}
    assert counts(stats) == counts(recorded("model", source).replay(twins.get(rule, rule)))


def test_new_seeds_give_new_verdicts_and_one_seed_the_same() -> None:
    trace = recorded("model", "token")
    assert counts(trace.replay("token", seed=3)) == counts(trace.replay("token", seed=3))
    assert len({str(counts(trace.replay("token", seed=seed))) for seed in range(10)}) > 5


def test_requests_that_shared_a_seed_do_not_share_new_numbers() -> None:
    """Three times the same request: the very same verdicts with its own numbers, others with new ones."""
    engine = small_engine(DRAFTERS["early exit"](), "token")
    trace = record(EngineLoop(engine), [PROMPTS[0]] * 3, WARM)
    parts = [replace(trace, steps=[s for s in trace.steps if s.request == i]) for i in range(3)]
    assert len({str(counts(part.replay("token"))) for part in parts}) == 1
    assert len({str([counts(part.replay("token", seed=s)) for s in range(5)]) for part in parts}) == 3


def token_expectation(trace: Trace, num_draft_tokens: int) -> float:
    """Mean over steps of Σ_i Π_{j<=i} min(1, p_j/q_j), from the rows, in float64: what `token` accepts."""
    total = 0.0
    for step in trace.steps:
        reached = 1.0
        assert step.tree.q is not None or not len(step.tree)
        for row, token in enumerate(step.tree.tokens[:num_draft_tokens]):
            assert step.tree.q is not None
            p = float(step.scores[row].double().softmax(0)[token])
            reached *= min(1.0, p / float(step.tree.q[row, token]))
            total += reached
    return total / len(trace.steps)


@pytest.mark.parametrize("num_draft_tokens", [1, 2, 4])
def test_replays_accept_what_the_closed_form_says(num_draft_tokens: int) -> None:
    trace, seeds = long_trace(), 6
    got = replayed(trace, "token", seeds, num_draft_tokens)
    want = token_expectation(trace, num_draft_tokens)
    assert abs(got - want) < hoeffding(seeds * len(trace.steps), span=num_draft_tokens)
    assert want > 0.2


def test_shorter_drafts_come_from_longer_ones() -> None:
    for trace in (recorded("model", "block"), recorded("model tree", "rrs"), recorded("ngram tree")):
        for step, short in zip(trace.steps, [step.truncated(1) for step in trace.steps], strict=True):
            roots = [node for node, parent in enumerate(step.tree.parents) if parent == -1]
            assert short.tree.tokens == tuple(step.tree.tokens[node] for node in roots)
            assert torch.equal(short.scores, step.scores[[0, *(node + 1 for node in roots)]])
            assert (short.tree.q is None) == (step.tree.q is None)
        assert trace.replay(trace.info.rule, num_draft_tokens=0).mean_accepted_length == 1.0
        full = trace.replay(trace.info.rule, num_draft_tokens=trace.info.num_draft_tokens)
        assert counts(full) == counts(trace.replay(trace.info.rule))


def test_drafts_cut_to_two_are_accepted_as_often_as_drafts_of_two() -> None:
    """The first step after one prompt, 600 drafts of four; the truth comes from transformers' own rows."""
    prompt, temperature, n = [1, 2, 3], 1.5, 600
    engine = small_engine(ModelDrafter(llama(seed=1), num_draft_tokens=4), "token")
    params = [SamplingParams(max_tokens=5, temperature=temperature, seed=seed) for seed in range(n)]
    trace = record(EngineLoop(engine), [prompt] * n, params)
    first = replace(trace, steps=[step for step in trace.steps if step.anchor == len(prompt)])
    assert len(first.steps) == n
    assert {len(step.tree) for step in first.steps} == {4}

    prefixes = torch.tensor([[*prompt, token] for token in range(VOCAB_SIZE)])
    with torch.no_grad():
        p, q = ((llama_module(seed)(prefixes).logits / temperature).double().softmax(-1) for seed in (0, 1))
    shared = torch.minimum(p, q)
    second = shared[:, 3].sum(-1)
    truth = float((shared[0, 2] * (1 + second)).sum())
    assert abs(replayed(first, "token", 8, num_draft_tokens=2) - truth) < hoeffding(n, span=2)
    assert token_expectation(first, 4) > truth


def test_block_accepts_more_tokens_than_token_on_the_same_drafts() -> None:
    """0.25 ± 0.027 more a step (standard error over the 1080 steps, each the mean of twelve verdicts)."""
    trace = long_trace()
    assert replayed(trace, "block", 12) - replayed(trace, "token", 12) > 4 * 0.027


def compact(trace: Trace, k: int) -> Trace:
    steps = []
    for step in trace.steps:
        tree, scores, ids = compacted(step.tree, step.scores, k)
        steps.append(replace(step, tree=tree, scores=scores, ids=ids))
    return replace(trace, steps=steps, info=replace(trace.info, top_k=k))


def test_recording_with_top_k_is_recording_and_then_cutting() -> None:
    whole, cut = recorded("model", "block"), recorded("model", "block", top_k=5)
    for a, b in zip(compact(whole, 5).steps, cut.steps, strict=True):
        assert (a.tree.tokens, a.tree.parents) == (b.tree.tokens, b.tree.parents)
        assert torch.equal(a.scores, b.scores)
        assert a.ids is not None
        assert b.ids is not None
        assert torch.equal(a.ids, b.ids)


@pytest.mark.parametrize("drafter", ["model", "model tree", "ngram"])
@pytest.mark.parametrize("k", [1, 6, VOCAB_SIZE])
def test_a_cut_row_keeps_its_likely_tokens_the_candidates_and_the_mass_of_the_rest(drafter: str, k: int) -> None:
    whole = recorded(drafter, "multiround")
    for step, cut in zip(whole.steps, compact(whole, k).steps, strict=True):
        assert cut.ids is not None
        p, small = step.scores.double().softmax(-1), cut.scores.double().softmax(-1)
        for row, ids in enumerate(cut.ids.tolist()):
            kept = [i for i in ids if i >= 0]
            columns = [ids.index(i) for i in kept]
            assert kept == sorted(set(kept))
            assert set(p[row].topk(k).indices.tolist()) <= set(kept)
            assert torch.allclose(small[row, columns], p[row, kept], atol=1e-6)
            assert small[row, 0].item() == pytest.approx(1 - p[row, kept].sum().item(), abs=1e-6)
            assert small[row].sum().item() == pytest.approx(1)
        for node, (token, parent) in enumerate(zip(step.tree.tokens, step.tree.parents, strict=True)):
            ids = cut.ids[parent + 1].tolist()
            assert ids[cut.tree.tokens[node]] == token
            q, small_q = step.tree.q_below(parent), cut.tree.q_below(parent)
            if q is not None and small_q is not None:
                kept = [i for i in ids if i >= 0]
                assert torch.equal(small_q[[ids.index(i) for i in kept]], q[kept])
                assert set(q.topk(k).indices.tolist()) <= set(kept)
                assert small_q.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("drafter", "rules"),
    [
        ("model", ["token", "multiround", "rrs", "kseq"]),
        ("ngram", ["token", "block", "multiround", "rrs", "kseq", "traversal"]),
        ("ngram tree", ["multiround", "rrs", "traversal"]),
    ],
)
def test_one_token_of_each_row_is_enough_where_the_page_says_exact(drafter: str, rules: list[str]) -> None:
    for rule in rules:
        whole = recorded(drafter, "rrs")
        cut = compact(whole, 1)
        for seed in range(10):
            assert counts(cut.replay(rule, seed=seed)) == counts(whole.replay(rule, seed=seed))


@pytest.mark.parametrize("drafter", ["early exit", "model tree", "ngram"])
def test_greedy_ignores_the_mass_of_the_rest(drafter: str) -> None:
    whole = recorded(drafter, "greedy", greedy=True)
    cut = compact(whole, 1)
    assert counts(cut.replay("greedy")) == counts(whole.replay("greedy"))
    heavy = [step for step in cut.steps if bool((step.scores[:, 0] > step.scores[:, 1:].amax(-1)).any())]
    assert heavy  # together the others are more likely than the best


def test_gumbel_accepts_a_certain_token_as_often_over_cut_rows() -> None:
    """It accepts x with p(x); 200 seeds, the closed form from whole rows."""
    whole, seeds = recorded("ngram"), 200
    want = 0.0
    for step in whole.steps:
        reached = 1.0
        for row, token in enumerate(step.tree.tokens):
            reached *= float(step.scores[row].double().softmax(0)[token])
            want += reached
    n = seeds * len(whole.steps)
    assert abs(replayed(compact(whole, 1), "gumbel", seeds) - want / len(whole.steps)) < hoeffding(n, span=4)


@pytest.mark.parametrize("rule", ["block", "traversal"])
@pytest.mark.parametrize("k", [1, 8, VOCAB_SIZE])
def test_on_cut_rows_block_accepts_no_more_and_falls_short_by_no_more_than_stated(rule: str, k: int) -> None:
    whole = replace(long_trace(), steps=long_trace().steps[:300])
    cut = compact(whole, k)
    for step, small in zip(whole.steps[:100], cut.steps[:100], strict=True):
        one, other = replace(whole, steps=[step]), replace(cut, steps=[small])
        assert other.replay(rule, seed=1).accepted_tokens <= one.replay(rule, seed=1).accepted_tokens
    bound = sum(shortfall_bound(step, k) for step in whole.steps) / len(whole.steps)
    gap = replayed(whole, rule, 4) - replayed(cut, rule, 4)
    assert 0 <= gap <= bound + 1e-9
    assert (gap > 0) == (bound > 1e-6) == (k < VOCAB_SIZE)


def shortfall_bound(step: TraceStep, k: int) -> float:
    """Σ j·R_j of the rows after j = 1 … γ - 1 draft tokens."""
    bound = 0.0
    for j in range(1, len(step.tree)):
        assert step.tree.q is not None
        p, q = step.scores[j].double().softmax(0), step.tree.q[j].double()
        outside = torch.ones(VOCAB_SIZE, dtype=torch.bool)
        outside[p.topk(k).indices] = False
        outside[q.topk(k).indices] = False
        bound += j * min(float(p[outside].sum()), float(q[outside].sum()))
    return bound


FILES = [("model tree", "rrs", None), ("ngram", "auto", None), ("model", "block", 5), ("none", "auto", None)]


@pytest.mark.parametrize(("drafter", "rule", "top_k"), FILES)
def test_a_file_gives_back_every_bit(drafter: str, rule: str, top_k: int | None, tmp_path: Path) -> None:
    trace = recorded(drafter, rule, top_k)
    save_trace(trace, tmp_path / "trace.safetensors")
    loaded = load_trace(tmp_path / "trace.safetensors")
    assert loaded.info == trace.info
    assert [list(text) for text in loaded.texts] == [list(text) for text in trace.texts]
    assert list(loaded.seeds) == list(trace.seeds)
    for a, b in zip(loaded.steps, trace.steps, strict=True):
        assert (a.request, a.anchor, a.tree.tokens, a.tree.parents) == (
            b.request, b.anchor, b.tree.tokens, b.tree.parents)  # fmt: skip
        width = b.scores.shape[1]  # rows of a trace with top_k differ in width, and are padded in the file
        assert torch.equal(a.scores[:, :width], b.scores)
        assert bool((a.scores[:, width:] == -math.inf).all())
        assert (a.tree.q is None) == (b.tree.q is None)
        assert a.tree.q is None or b.tree.q is None or torch.equal(a.tree.q[:, :width], b.tree.q)
        assert (a.ids is None) == (b.ids is None)
        assert a.ids is None or b.ids is None or torch.equal(a.ids[:, :width], b.ids)
    assert counts(loaded.replay(loaded.info.rule)) == counts(trace.replay(trace.info.rule))
    save_trace(loaded, tmp_path / "again.safetensors")
    first, again = (load_file(tmp_path / f"{name}.safetensors") for name in ("trace", "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def rewritten(path: Path, tensors: dict[str, torch.Tensor | None] | None = None, **metadata: str) -> None:
    """Changes a saved trace; a tensor that becomes None is left out."""
    with safe_open(path, framework="pt") as file:
        old = dict(file.metadata())
    kept = {name: tensor for name, tensor in (load_file(path) | (tensors or {})).items() if tensor is not None}
    save_file(kept, path, old | metadata)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.safetensors"
    save_trace(recorded("model", "block"), path)
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigError, match=r"trace\.safetensors is not a whole safetensors file.*Record"):
            load_trace(path)
    with pytest.raises(FileNotFoundError):
        load_trace(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({}, {"schema": "weights"}, "schema 'weights', not 'specdec.acceptance-trace'"),
        ({}, {"version": "1"}, "version '1' .* this code reads '2'"),
        ({}, {"info": "{"}, "do not fit together"),
        ({}, {"info": "{}"}, "do not fit together.*missing"),
        ({}, {"seeds": "[1]"}, "3 texts and 1 seeds"),
        ({"q": None}, {}, "its tensors are"),
        ({"has_q": None}, {}, "do not fit together: .has_q"),
        ({"extra": torch.zeros(1)}, {}, "its tensors are .*extra"),
        ({"scores": torch.zeros(3, 4)}, {}, "do not fit together"),
        ({"anchor": torch.zeros(2, dtype=torch.int64)}, {}, "do not fit together"),
        ({"request": torch.full((72,), 9)}, {}, "do not fit"),
        ({"parents": torch.full((999,), 7)}, {}, "do not fit together"),
    ],
)
def test_a_file_that_is_not_such_a_trace_is_refused(
    tensors: dict[str, torch.Tensor | None], metadata: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "trace.safetensors"
    save_trace(recorded("model", "block"), path)
    rewritten(path, tensors, **metadata)
    with pytest.raises(ConfigError, match=message):
        load_trace(path)


@pytest.mark.parametrize(
    ("drafter", "source", "rule", "top_k", "options", "message"),
    [
        ("model tree", "rrs", "multiround", None, {}, "rule='multiround' draws candidates with .*IndependentDraws"),
        ("model tree", "multiround", "traversal", None, {}, "drawn with .*IndependentDraws.*rule='multiround'"),
        ("model tree", "rrs", "block", None, {}, "rule='block' cannot judge trees"),
        ("ngram tree", "auto", "kseq", None, {}, "rule='kseq' cannot judge trees"),
        ("model", "gumbel", "token", None, {}, "rule='token' draws candidates with .*drawn with .*Gumbel"),
        ("model", "token", "gumbel", None, {}, "rule='gumbel' draws candidates"),
        ("model", "gumbel", "gumbel", None, {"seed": 1}, "shares its noise .* Leave out seed"),
        ("model", "gumbel", "gumbel", 8, {}, "shares its noise .* without top_k"),
        ("model", "token", "greedy", None, {}, "rule='greedy' would ignore temperature"),
        ("model", "token", "typical", 8, {}, "rule='typical' may read whole rows.*top_k=8"),
        ("model", "token", "tokens", None, {}, "Unknown rule 'tokens'"),
        ("model", "token", "token", None, {"num_draft_tokens": 4}, "num_draft_tokens=4.*recorded with 3"),
        ("model", "token", "token", None, {"num_draft_tokens": -1}, "num_draft_tokens=-1"),
    ],
)
def test_a_replay_that_would_prove_nothing_is_refused(
    drafter: str, source: str, rule: str, top_k: int | None, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        recorded(drafter, source, top_k).replay(rule, **options)


def test_a_rule_with_its_own_way_to_draw_needs_its_own_trace() -> None:
    class Mine(TokenRule):
        name = "mine"

        def draw(self, *args, **options):  # type: ignore[no-untyped-def]
            return super().draw(*args, **options)

    class Judged(TokenRule):
        name = "judged"

    trace = recorded("model", "token")
    assert counts(trace.replay(Judged())) == counts(trace.replay("token"))
    with pytest.raises(ConfigError, match=r"rule='mine' draws candidates with .*Mine\.draw"):
        trace.replay(Mine())
    assert counts(recorded("ngram").replay(Mine(), seed=1)) == counts(recorded("ngram").replay("token", seed=1))


def test_at_temperature_0_every_lossless_rule_is_the_exact_match() -> None:
    trace = recorded("model", "token", greedy=True)
    assert trace.info.greedy
    assert counts(trace.replay("traversal", seed=4)) == counts(trace.replay("greedy"))


def test_what_cannot_be_recorded_is_refused_and_leaves_nothing_behind() -> None:
    engine = small_engine(DRAFTERS["model"](), "block")
    with pytest.raises(ConfigError, match="2 rules for 3 prompts"):
        record(EngineLoop(engine), PROMPTS, [WARM, GREEDY, WARM])
    with pytest.raises(ConfigError, match="top_k=0"):
        record(EngineLoop(engine), PROMPTS, WARM, top_k=0)
    with pytest.raises(InvalidRequestError, match="prompt is empty"):
        record(EngineLoop(engine), [[1], []], WARM)
    nothing_left = replace(WARM, bad_words=hopeless(VOCAB_SIZE).bad_words)
    with pytest.raises(NumericalError, match="every token is banned"):
        record(EngineLoop(engine), PROMPTS, [WARM, nothing_left, WARM])
    assert not engine.has_work
    assert engine.cache.num_free_blocks == engine.cache.num_blocks


@pytest.mark.slow
@pytest.mark.xdist_group("real model")
def test_on_the_real_model_block_accepts_at_least_as_many_tokens_a_pass(embedded: LoadedModel, tmp_path: Path) -> None:
    """200 seeds of new numbers for both; over cut rows block is a lower bound, and token exact.

    The seed of the drafts is part of the test: 96 of them have luck of their own, about as large as the difference.
    """
    prompts = [embedded.tokenizer.encode(record.prompt) for record in load_prompts()[:3]]
    drafter = EarlyExitDrafter(num_draft_tokens=4, num_layers=28)
    engine = Engine(embedded.model, drafter, "block", EngineConfig(num_blocks=64), embedded.tokenizer, embedded.eos)
    params = SamplingParams(max_tokens=32, temperature=1.0, seed=7, ignore_eos=True)
    trace = record(EngineLoop(engine), prompts, params, top_k=32, every_position=True)
    save_trace(trace, tmp_path / "trace.safetensors")
    trace = load_trace(tmp_path / "trace.safetensors")
    assert len(trace.steps) == 3 * 32
    block, token = (replayed(trace, rule, 200) for rule in ("block", "token"))
    assert block >= token > 0.3
    assert abs(token - token_expectation(trace, 4)) < hoeffding(200 * len(trace.steps), span=4)
