"""Hidden states of a pass: transformers' own, of every row, with bits that depend on the row's prefix alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from specdec.errors import ConfigError
from specdec.kernels.linear import KINDS
from specdec.models.base import CausalLM, PassOutput, Wants
from specdec.models.batch import RaggedBatch
from specdec.models.native import NativeModel
from specdec.models.transformers import TransformersModel
from tests.kernels.variants import threads
from tests.models.bench import (
    LLAMA,
    TREE_PARENTS,
    TREE_PATHS,
    WINDOW,
    Bench,
    Own,
    Tapped,
    assert_close,
    make_module,
    text,
)
from tests.models.scenes import PROMPT, SCENES, TREE, Decoded

pytestmark = pytest.mark.fewer(4)

LAYERS = LLAMA["num_hidden_layers"]
BOUNDARIES = tuple(range(LAYERS + 1))
FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", LLAMA),
    "mistral": ("Mistral", LLAMA | {"sliding_window": WINDOW}),
    "qwen2": ("Qwen2", LLAMA),
    "qwen3": ("Qwen3", LLAMA | {"head_dim": 16}),
}


def on_triton(name: str, kind: str = "float32") -> CausalLM:
    pytest.importorskip("triton")
    from specdec.kernels.attention.triton import AttentionConfig
    from specdec.models.triton import TritonModel
    from tests.kernels.gpu import DEVICE

    sizes = AttentionConfig(block_m=16, block_n=16, split=32)
    return TritonModel(make_module(*FAMILY[name]).to(DEVICE), name, kind, attention=sizes)


MAKERS: dict[str, Callable[[str], CausalLM]] = {
    "native": lambda name: NativeModel(make_module(*FAMILY[name]), name),
    "triton": on_triton,
    "transformers": lambda name: TransformersModel(make_module(*FAMILY[name]), name),
    "transformers, packed": lambda name: TransformersModel(make_module(*FAMILY[name]), name, "float32"),
}
INVARIANT: dict[str, Callable[[], CausalLM]] = {
    **{f"native {kind}": lambda kind=kind: NativeModel(make_module(*FAMILY["qwen3"]), kind=kind) for kind in KINDS},
    "transformers, packed": lambda: MAKERS["transformers, packed"]("qwen3"),
}
"""Implementations that promise a row's bits; Triton's has tests of its own, since its interpreter is slow."""

every_maker = pytest.mark.parametrize("maker", MAKERS)
every_scene = pytest.mark.parametrize("scene", SCENES)
INTERPRETED = ("prompt in three chunks", "tree by levels")
"""Scenes that are short enough for Triton's interpreter."""


def quick(*cases: tuple[Any, ...]) -> list[Any]:
    """Every maker with every case; Triton with the last case alone, among the slow tests."""
    others = [(maker, *case) for maker in MAKERS if maker != "triton" for case in cases]
    return [*others, pytest.param("triton", *cases[-1], marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def own() -> dict[str, Own]:
    """What each module says itself."""
    return {name: Own(make_module(*arguments)) for name, arguments in FAMILY.items()}


@pytest.mark.parametrize(
    ("maker", "scene"), [(maker, scene) for maker in MAKERS for scene in (INTERPRETED if maker == "triton" else SCENES)]
)
def test_every_boundary_is_transformers_own(maker: str, scene: str, own: dict[str, Own]) -> None:
    """Prompts in chunks, chains, trees, decoding after them and a batch of it all."""
    texts, states = SCENES[scene](Bench(Tapped(MAKERS[maker]("llama")), num_blocks=80))
    assert_close(states.cpu(), own["llama"].hidden(texts, BOUNDARIES).flatten(1))


@pytest.mark.parametrize(("maker", "name"), quick(("mistral",), ("qwen2",), ("qwen3",)))
def test_every_boundary_is_transformers_own_in_the_whole_family(maker: str, name: str, own: dict[str, Own]) -> None:
    texts, states = SCENES["decoding after a tree"](Bench(Tapped(MAKERS[maker](name))))
    assert_close(states.cpu(), own[name].hidden(texts, BOUNDARIES).flatten(1))


@pytest.mark.parametrize(
    ("maker", "boundaries", "keeps"),
    quick(*product([(0,), (2,), (LAYERS,), (1, 2)], [0, 1, 3]), ((1, LAYERS), 3), ((0, LAYERS), 0)),
    ids=str,
)
def test_rows_without_logits_have_hidden_states_too(
    maker: str, boundaries: tuple[int, ...], keeps: int, own: dict[str, Own]
) -> None:
    texts, states = SCENES["tree"](Bench(Tapped(MAKERS[maker]("llama"), boundaries, keeps)))
    assert_close(states.cpu(), own["llama"].hidden(texts, boundaries).flatten(1))


@pytest.fixture(scope="module")
def decoded() -> dict[str, Decoded]:
    return {}


@every_scene
@pytest.mark.parametrize("name", INVARIANT)
def test_a_rows_hidden_states_have_the_bits_of_plain_decoding(
    name: str, scene: str, decoded: dict[str, Decoded]
) -> None:
    """Whatever shares the pass, on any number of threads, and whether or not the rows have logits."""
    if name not in decoded:
        decoded[name] = Decoded(Tapped(INVARIANT[name]()))
    tapped = decoded[name].model
    assert isinstance(tapped, Tapped)
    texts, states = SCENES[scene](Bench(tapped, num_blocks=80))
    assert states.isfinite().all()
    assert torch.equal(states, decoded[name].last(texts))
    for keeps, number in ((0, 2), (3, 1)):
        with threads(number):
            again = SCENES[scene](Bench(Tapped(tapped.model, keeps=keeps), block_size=3, num_blocks=80))[1]
        assert torch.equal(again, states)


class Asked:
    """A model that is asked for hidden states, which nobody reads."""

    def __init__(self, model: CausalLM, boundaries: tuple[int, ...]) -> None:
        self.model, self.boundaries = model, boundaries
        self.kv_layout, self.vocab_size = model.kv_layout, model.vocab_size

    def run(self, batch: RaggedBatch, pool: Any) -> PassOutput:
        return self.model.run(batch, pool, Wants(hidden=self.boundaries))


@pytest.mark.parametrize("scene", ["batch of eight", "decoding after a tree"])
@pytest.mark.parametrize("name", INVARIANT)
def test_logits_have_the_same_bits_with_and_without_taps(name: str, scene: str) -> None:
    model = INVARIANT[name]()
    logits = SCENES[scene](Bench(model, num_blocks=80))[1]
    for boundaries in ((0,), (1, 2), (LAYERS,), BOUNDARIES):
        tapped = SCENES[scene](Bench(Asked(model, boundaries), num_blocks=80))[1]  # type: ignore[arg-type]
        assert torch.equal(tapped, logits)


@every_maker
def test_few_logits_of_many_rows_have_the_same_bits_with_and_without_taps(maker: str) -> None:
    """Behind the last layer rows without logits are dropped, or kept for a tap."""
    model = MAKERS[maker]("llama")
    for wanted in ([], [0], [3, 3], [5, 1, 0, 6, 2, 4], [6, 0])[-1 if maker == "triton" else 0 :]:
        rows = []
        for one in (model, Asked(model, (LAYERS,))):
            bench = Bench(one)  # type: ignore[arg-type]
            bench.append(0, PROMPT)
            rows.append(bench.run(bench.part(0, TREE, TREE_PARENTS, logit_rows=wanted)))
        assert torch.equal(*rows)


@every_maker
def test_nothing_is_given_that_was_not_asked_for(maker: str) -> None:
    bench = Bench(MAKERS[maker]("llama"))
    batch = RaggedBatch.build([bench.part(0, PROMPT)], bench.model.kv_layout.device)
    run = bench.model.run  # type: ignore[union-attr]
    assert run(batch, bench.cache.target).hidden is None
    plain, tapped = (run(batch, bench.cache.target, Wants("argmax", hidden)) for hidden in ((), (1,)))
    assert plain.maxima == tapped.maxima
    assert tapped.hidden is not None


@pytest.mark.parametrize("boundaries", [(-1,), (LAYERS + 1,), (1, 1), (2, 1), (0, 1, 7)], ids=str)
@every_maker
def test_boundaries_that_the_model_does_not_have_are_refused(maker: str, boundaries: tuple[int, ...]) -> None:
    bench = Bench(MAKERS[maker]("llama"))
    batch = RaggedBatch.build([bench.part(0, PROMPT)], bench.model.kv_layout.device)
    with pytest.raises(ConfigError, match=r"no layer boundaries of llama: .* from 0 .* to 3"):
        bench.model.run(batch, bench.cache.target, Wants(hidden=boundaries))


@pytest.mark.parametrize(("maker", "num_layers"), quick((1,), (2,)))
def test_an_early_exit_has_the_boundaries_of_a_model_with_so_many_layers(maker: str, num_layers: int) -> None:
    """Its last one is what its head reads: the final norm of the stream."""
    model = MAKERS[maker]("qwen3")
    kind, options = FAMILY["qwen3"]
    small = make_module(kind, options | {"num_hidden_layers": num_layers}, seed=9)
    weights = make_module(kind, options).state_dict()
    small.load_state_dict({key: weights[key] for key in small.state_dict()})
    short, boundaries = model.truncated(num_layers), range(num_layers + 1)
    texts, states = SCENES["tree"](Bench(Tapped(short)))
    assert_close(states.cpu(), Own(small).hidden(texts, boundaries).flatten(1))
    below = Tapped(model, boundaries[:-1])
    for _ in range(1 if maker == "triton" else 2):  # the two do not get into each other's way
        assert torch.equal(SCENES["tree"](Bench(below))[1], states[:, : below.vocab_size])
        assert torch.equal(SCENES["tree"](Bench(Tapped(short)))[1], states)
    with pytest.raises(ConfigError, match=f"to {num_layers}"):
        SCENES["tree"](Bench(Tapped(short, [num_layers + 1])))


def test_an_early_exit_and_its_model_share_a_cache() -> None:
    """Whichever of them meets it first."""
    model, prompt = MAKERS["native"]("llama"), text(9, seed=3)
    expected = Bench(model).append(0, prompt)
    bench, short = Bench(model), model.truncated(1)
    batch = RaggedBatch.build([bench.part(0, prompt)])
    short.run(batch, bench.cache.target)
    assert torch.equal(bench.run(bench.part(0, prompt)), expected)


@pytest.mark.parametrize("kind", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_on_triton_a_rows_hidden_states_have_the_bits_of_plain_decoding(kind: str) -> None:
    """In one chunk, alone, in a tree, with logits or without."""
    model, prompt = on_triton("qwen3", kind), PROMPT[:5]
    bench, alone = Bench(Tapped(model)), Bench(Tapped(model, keeps=0))
    together = bench.append(0, prompt)
    assert together.isfinite().all()
    assert torch.equal(torch.cat([alone.append(0, [token]) for token in prompt]), together)
    tree = bench.run(bench.part(0, TREE, TREE_PARENTS))
    path = TREE_PATHS[6]
    assert torch.equal(alone.append(0, [TREE[node] for node in path]), tree[path])


@pytest.mark.parametrize("name", INVARIANT)
def test_embeddings_are_the_stream_at_boundary_0(name: str) -> None:
    model = INVARIANT[name]()
    states = SCENES["prompt in one chunk"](Bench(Tapped(model, [0])))[1]
    embedded = model.embed(PROMPT)
    assert embedded.dtype == torch.float32
    assert embedded.shape == (len(PROMPT), model.hidden_size)
    assert torch.equal(embedded, states)
    assert model.embed([]).shape == (0, model.hidden_size)


@pytest.mark.parametrize(
    "model",
    [
        *(
            pytest.param(lambda kind=kind: NativeModel(make_module(*FAMILY["qwen3"]), kind=kind), id=kind)
            for kind in KINDS
        ),
        pytest.param(lambda: MAKERS["transformers"]("llama"), id="transformers"),
        pytest.param(lambda: on_triton("llama"), id="triton"),
    ],
)
def test_logits_are_products_of_the_last_state_with_rows_of_the_head(model: Callable[[], CausalLM]) -> None:
    """Of numbers that are rounded on the way, 8-bit ones to 1/127 of the largest of a row or block, only the order of
    size is told."""
    made = model()
    last, logits = (
        SCENES["prompt in one chunk"](Bench(one))[1].double()  # type: ignore[arg-type]
        for one in (Tapped(made, [LAYERS]), made)
    )
    rows = made.unembed(range(made.vocab_size))
    assert rows.dtype == torch.float32
    assert rows.shape == (made.vocab_size, made.hidden_size)
    wanted = last @ rows.double().T
    kind = getattr(made, "kind", "float32")
    rounding = {
        "float32": 1e-5,
        "int8_weight": 1e-5,
        "bfloat16": 4e-3,
        **dict.fromkeys(("int8", "int4", "gguf"), 2e-2),
    }[kind]
    assert float((logits - wanted).abs().max()) <= rounding * float(wanted.abs().max())
    some = [5, 0, made.vocab_size - 1]
    assert torch.equal(made.unembed(some), rows[some])


def test_long_triton_passes_are_not_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are their outputs cut."""
    model, states = on_triton("llama"), list[Tensor]()
    for most in (64, 4):
        monkeypatch.setattr("specdec.models.triton.MOST_CAPTURED_ROWS", most)
        states.append(Bench(Tapped(model)).append(0, PROMPT[:5]))
    assert torch.equal(*states)
    assert torch.equal(model.embed(PROMPT[:5]), states[0][:, : model.hidden_size])


def test_an_output_is_split_by_rows_of_the_pass() -> None:
    hidden, logits = torch.arange(24.0).view(6, 2, 2), torch.arange(9.0).view(3, 3)
    first, none, last = PassOutput(logits, None, hidden).split([1, 0, 2], [2, 1, 3])
    for part, wanted in zip((first, none, last), hidden.split([2, 1, 3]), strict=True):
        assert part.hidden is not None
        assert torch.equal(part.hidden, wanted)
    assert [part.maxima.values for part in (first, none, last)] == [[2.0], [], [5.0, 8.0]]
