"""A model on the Triton kernels: right, row-invariant, and the whole engine on it says what the CPU path says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from specdec import Engine, EngineConfig, NumericalError, SamplingParams
from specdec.cache import KVPool
from specdec.drafters.none import NoDrafter
from specdec.errors import UnsupportedModelError
from specdec.kernels.attention.triton import AttentionConfig
from specdec.kernels.linear.triton_weights import COMPUTED_IN
from specdec.models.base import Wants
from specdec.models.batch import RaggedBatch
from specdec.models.graphs import Captured, Outputs
from specdec.models.inputs import PackedPass, PassInputs, power_of_two
from specdec.models.native import NativeModel
from specdec.models.triton import TritonModel
from specdec.policy.base import Load
from specdec.policy.curve import CostCurve
from specdec.policy.product import ProductPolicy
from tests.engines import DRAFTERS, outputs, run
from tests.kernels.gpu import DEVICE
from tests.models.bench import LLAMA, TREE_PARENTS, Bench, Own, make_module
from tests.tiny import VOCAB_SIZE, llama_module

pytestmark = pytest.mark.fewer(3)

TINY = AttentionConfig(block_m=16, block_n=16, split=32)
FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", LLAMA),
    "mistral, windowed": ("Mistral", LLAMA | {"sliding_window": 6}),
    "qwen2, with biases": ("Qwen2", LLAMA),
    "qwen3, normed heads": ("Qwen3", LLAMA | {"head_dim": 16}),
}
PROMPT, TREE = [3, 1, 4, 1, 5, 9, 2, 6, 5], [8, 9, 7, 9, 3, 2, 3]


def make(name: str = "llama", kind: str = "float32", kv: torch.dtype | None = None) -> TritonModel:
    module = make_module(*FAMILY[name]).to(DEVICE)
    return TritonModel(module, kind=kind, kv_dtype=kv, attention=TINY)


def tree_logits(model: TritonModel) -> Tensor:
    bench = Bench(model)
    bench.append(0, PROMPT)
    return bench.run(bench.part(0, TREE, TREE_PARENTS)).cpu()


def texts() -> list[list[int]]:
    paths = []
    for node in range(len(TREE)):
        path, at = [], node
        while at >= 0:
            path.append(TREE[at])
            at = TREE_PARENTS[at]
        paths.append(PROMPT + path[::-1])
    return paths


@pytest.mark.parametrize("name", FAMILY)
def test_a_tree_after_a_prompt_has_the_models_own_logits(name: str) -> None:
    own = Own(make_module(*FAMILY[name])).last(texts())
    torch.testing.assert_close(tree_logits(make(name)).double(), own.double(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int8_weight", "gguf"])
def test_rounded_weights_give_logits_near_the_models_own(kind: str) -> None:
    """A guard against gross errors; what each product may be off is tested where it is made."""
    own = Own(make_module(*FAMILY["llama"])).last(texts())
    off = (tree_logits(make("llama", kind)) - own).norm() / own.norm()
    assert off < 0.05


@pytest.mark.parametrize("kv", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_an_8_bit_cache_gives_logits_near_the_models_own(kv: torch.dtype) -> None:
    own = Own(make_module(*FAMILY["llama"])).last(texts())
    off = (tree_logits(make("llama", kv=kv)) - own).norm() / own.norm()
    assert 0 < off < (0.05 if kv == torch.int8 else 0.1)  # 7 bits behind the leading one, and 3


@pytest.mark.parametrize(
    "kind", ["float32", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("int8", "int4"))]
)
def test_a_rows_bits_are_those_of_plain_decoding(kind: str) -> None:
    """In one chunk or several, beside others, in a tree or alone."""
    model = make("llama", kind)
    tree = tree_logits(model)
    for node in (2, 6):
        bench = Bench(model)
        bench.append(5, PROMPT[:4])
        text = texts()[node]
        bench.append(0, text[:2])
        bench.append(0, text[2:-1])
        both = bench.run(bench.part(5, PROMPT[4:]), bench.part(0, text[-1:]))
        assert torch.equal(both[-1].cpu(), tree[node])


def test_the_argmax_is_that_of_the_logits() -> None:
    bench = Bench(make())
    batch = RaggedBatch.build([bench.part(0, PROMPT)])
    logits = bench.model.run(batch, bench.cache.target).logits
    best = bench.model.run(batch, bench.cache.target, Wants("argmax")).maxima
    assert list(best.tokens) == logits.argmax(1).tolist()
    assert list(best.values) == logits.amax(1).tolist()


def test_shapes_are_rounded_up_so_that_few_occur() -> None:
    assert [power_of_two(n) for n in (0, 1, 2, 3, 4, 5, 64, 65)] == [1, 1, 2, 4, 4, 8, 64, 128]
    bench, shapes = Bench(make(), num_blocks=80), set()
    bench.append(0, PROMPT)
    for rows in range(5, 9):
        shapes.add(PackedPass.of(RaggedBatch.build([bench.part(0, PROMPT[:rows])]), 8, DEVICE, split=32).shape)
    assert len(shapes) <= 2  # 14 to 17 slots, around a power of two


class Again:
    """Stands in for a captured graph: computes what the capture computed, into the same outputs."""

    def __init__(self, compute: Callable[[], Outputs], outputs: Outputs) -> None:
        self.compute, self.outputs = compute, outputs

    def replay(self) -> None:
        for kept, new in zip(self.outputs, self.compute(), strict=True):
            if kept is not None and new is not None:
                kept.copy_(new)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are captured and replayed as on a GPU, without one."""

    def again(static: Any, compute: Callable[[Any], Outputs]) -> Captured[Any]:
        outputs = compute(static)
        return Captured(static, outputs, Again(lambda: compute(static), outputs))

    monkeypatch.setattr("specdec.models.graphs.capture", again)
    monkeypatch.setattr("specdec.models.graphs.can_capture", lambda tensor: True)


@pytest.mark.usefixtures("captured")
def test_captured_passes_are_told_apart_by_their_taps() -> None:
    """And each call's hidden states are its own: the next replay writes over the graph's."""
    model, batches, expected, given = make(), [], [], []
    bench = Bench(model)
    for tokens in ([3, 1, 4], [1, 5, 9]):
        batches.append(RaggedBatch.build([bench.part(len(batches), tokens)]))
    inputs = [PackedPass.of(batch, 8, DEVICE).on(DEVICE).inputs for batch in batches]
    for taps in ((), (1, 3), (0,)):
        expected += [model._logits(one, bench.cache.target, taps) for one in inputs]
        given += [model._outputs(batch, bench.cache.target, Wants(hidden=taps)) for batch in batches]
    assert len(model._graphs.captured[bench.cache.target]) == 3
    for one, (logits, hidden) in zip(given, expected, strict=True):
        assert torch.equal(one.logits, logits)
        assert (one.hidden is None and hidden is None) or torch.equal(one.hidden, hidden)


@pytest.mark.usefixtures("captured")
def test_passes_that_verify_are_captured_however_many_rows_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that read prompts only short ones. The first of a shape says so, also of each sequence."""
    monkeypatch.setattr("specdec.models.triton.MOST_CAPTURED_ROWS", 4)
    monkeypatch.setattr("specdec.models.triton.MOST_VERIFIED_ROWS", 8)
    model = make()
    bench = Bench(model)

    def captures(rows: int, wanted: int) -> list[bool]:
        part = bench.part(0, PROMPT[:rows])
        batch = RaggedBatch.build([replace(part, logit_rows=range(rows - wanted, rows))])
        output = model.run(batch, bench.cache.target)
        return [one.first for one in output.split([1, wanted - 1], [rows - 1, 1])] if wanted > 1 else [output.first]

    assert [captures(3, 1), captures(3, 1), captures(5, 1)] == [[True], [False], [False]]
    assert [captures(8, 8), captures(8, 8), captures(8, 4)] == [[True] * 2, [False] * 2, [True] * 2]
    assert [captures(9, 9), captures(8, 3)] == [[False] * 2, [False] * 2]


@pytest.mark.usefixtures("captured")
def test_what_a_captured_pass_took_is_no_news_to_a_policy() -> None:
    told: list[Load] = []

    class Listener(ProductPolicy):
        def timed(self, load: Load, seconds: float) -> None:
            told.append(load)

    engine = Engine(make(), NoDrafter(), policy=Listener(CostCurve((1, 2), (1.0, 2.0))))
    run(engine, [PROMPT], SamplingParams(max_tokens=4))
    graphs = engine.model._graphs  # type: ignore[attr-defined]
    assert graphs.captures >= 2
    assert len(told) == 4 - graphs.captures


def test_a_model_of_another_family_or_kind_is_refused() -> None:
    gpt2 = make_module("GPT2", {"vocab_size": 32, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32})
    with pytest.raises(UnsupportedModelError, match="type is 'gpt2'"):
        TritonModel(gpt2.to(DEVICE))
    with pytest.raises(UnsupportedModelError, match=", ".join(COMPUTED_IN)):
        make(kind="int3")


PROMPTS = [[5], [1, 2, 3, 1, 2, 3, 1], [7, 7, 7, 7]]
GREEDY, SAMPLED = SamplingParams(max_tokens=4), SamplingParams(max_tokens=4, temperature=0.8, seed=3)


def engine(drafter: str, rule: str, on_triton: bool) -> Engine:
    module = llama_module(0)
    model = TritonModel(module.to(DEVICE), kind="float32", attention=TINY) if on_triton else NativeModel(module)
    return Engine(model, DRAFTERS[drafter](), rule, EngineConfig(block_size=4, num_blocks=64))


@pytest.mark.parametrize(
    ("drafter", "rule", "params"),
    [
        pytest.param("none", "auto", GREEDY, marks=pytest.mark.slow),
        ("ngram tree", "auto", GREEDY),
        pytest.param("early exit", "auto", GREEDY, marks=pytest.mark.slow),
        pytest.param("ngram", "token", SAMPLED, marks=pytest.mark.slow),
        ("early exit", "block", SAMPLED),
        pytest.param("early exit", "gumbel", SAMPLED, marks=pytest.mark.slow),
        ("ngram", "gumbel", SamplingParams(max_tokens=4, temperature=0.9, top_k=20, top_p=0.9, seed=5)),
        pytest.param("ngram tree", "rrs", SAMPLED, marks=pytest.mark.slow),  # has no kernel
        pytest.param(
            "ngram", "token", SamplingParams(max_tokens=4, temperature=0.8, repetition_penalty=1.3, seed=3),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_the_engine_says_what_it_says_on_the_cpu_kernels(drafter: str, rule: str, params: SamplingParams) -> None:
    ours = run(engine(drafter, rule, on_triton=True), PROMPTS, params)
    cpu = run(engine(drafter, rule, on_triton=False), PROMPTS, params)
    assert outputs(ours) == outputs(cpu)
    assert [r.stats.accepted_tokens for r in ours] == [r.stats.accepted_tokens for r in cpu]


class Poisoned(TritonModel):
    """Its logits are NaN after one token."""

    def _logits(self, inputs: PassInputs, pool: KVPool, taps: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        logits, hidden = super()._logits(inputs, pool, taps)
        logits[inputs.wanted(inputs.tokens) == VOCAB_SIZE - 1] = float("nan")
        return logits, hidden


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_request_whose_logits_are_no_numbers_fails_alone(temperature: float) -> None:
    model = Poisoned(llama_module(0).to(DEVICE), kind="float32", attention=TINY)
    broken = Engine(model, DRAFTERS["ngram"](), config=EngineConfig(block_size=4, num_blocks=64))
    params = SamplingParams(max_tokens=2, temperature=temperature, seed=1)
    good, bad = run(broken, [[1, 2], [3, VOCAB_SIZE - 1]], params)
    assert isinstance(bad.error, NumericalError)
    assert good.error is None
