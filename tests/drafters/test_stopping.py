"""Drafts that end early: where they should, by plain transformers' own words, and without a change of any law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import log, prod, sqrt

import pytest
import torch

from specdec import ConfigError, DraftTree, Outcome, SamplingParams
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.stopping import RULES, Calibration, EntropyStop, Stop, SurvivalStop, stop_rule
from specdec.models.native import NativeModel
from specdec.proof import cases
from specdec.proof.exact import Setting, drafts, joint_law, target_law
from specdec.registry import RULES as ACCEPTANCE
from specdec.verify.rational import Row
from specdec.verify.tree import TreeShape
from tests.drafters.test_model_drafters import Desk, first_layers, logits_after
from tests.drafting import draft_request
from tests.engines import outputs, run, small_engine
from tests.tiny import llama, llama_module

pytestmark = pytest.mark.fewer(3)

PROMPTS = [[5, 17, 3, 40, 40, 9], [1], [2, 3] * 9, [60, 0, 33]]
WARM = SamplingParams(temperature=0.3)
MAKERS: dict[str, Callable[..., Desk]] = {
    "model": lambda **options: Desk(ModelDrafter(llama(1, num_layers=2), 4, **options), llama(0)),
    "native model": lambda **options: Desk(ModelDrafter(NativeModel(llama_module(1)), 4, **options), llama(0)),
    "early exit": lambda **options: Desk(
        EarlyExitDrafter(4, num_layers=2, **options), llama(1, num_layers=3), read=True
    ),
}
ORACLES = {
    "model": lambda: llama_module(1, num_layers=2),
    "native model": lambda: llama_module(1, num_layers=2),
    "early exit": lambda: first_layers(2),
}
kinds = pytest.mark.parametrize("kind", MAKERS)


def estimate(rule: str, row: torch.Tensor) -> float:
    """What the rule thinks of acceptance, from the formula of its paper, in float64."""
    row = row.double()
    entropy = -sum(float(mass) * log(float(mass)) for mass in row if mass > 0)
    return 1 - sqrt(0.2 * entropy) if rule == "entropy" else float(row.max())


def ends(rule: str, estimates: Sequence[float], below: float) -> bool:
    return (estimates[-1] if rule == "entropy" else prod(estimates)) < below


@kinds
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("acceptance", "params"), [("greedy", SamplingParams()), ("token", WARM)])
def test_a_branch_ends_with_the_first_token_of_a_doubtful_distribution(
    kind: str, rule: str, acceptance: str, params: SamplingParams
) -> None:
    """The tokens are those of a full draft, and how many there are follows from the drafting model's own words."""
    module = ORACLES[kind]()
    temperature = params.temperature or 1.0
    lengths = set()
    for below in (0.0, 0.2, 0.28, 0.4, 0.6, 1.0):
        asked = [draft_request(text, 4, i, rule=acceptance, params=params) for i, text in enumerate(PROMPTS)]
        full = MAKERS[kind]().propose(asked)
        for text, whole, tree in zip(
            PROMPTS, full, MAKERS[kind](stop=rule, stop_below=below).propose(asked), strict=True
        ):
            estimates = [
                estimate(rule, torch.softmax(logits_after(module, [*text, *whole.tokens[:node]]) / temperature, -1))
                for node in range(4)
            ]
            kept = next((n for n in range(1, 4) if ends(rule, estimates[:n], below)), 4)
            assert tree.tokens == whole.tokens[:kept]
            assert (tree.q is None) == (acceptance == "greedy")
            lengths.add(kept)
    assert len(lengths) >= 2


@kinds
def test_each_branch_of_a_tree_ends_for_itself(kind: str) -> None:
    module = ORACLES[kind]()
    asked = [draft_request(PROMPTS[0], 4, 0)]
    [whole] = MAKERS[kind](branches=3).propose(asked)
    root = float(torch.softmax(logits_after(module, PROMPTS[0]), -1).max())
    second = {
        first: root * float(torch.softmax(logits_after(module, [*PROMPTS[0], first]), -1).max())
        for first in whole.tokens[:3]
    }
    below = sorted(second.values())[1] + 1e-6  # two of the three branches fall below it with their second token
    [tree] = MAKERS[kind](branches=3, stop="survival", stop_below=below).propose(asked)
    paths = [tree.prefix(node) for node in range(len(tree)) if not tree.children(node)]
    assert len(paths) == 3
    for path in paths:
        assert path in {whole.prefix(node) for node in range(len(whole))}
        assert (len(path) == 2) == (second[path[0]] < below)


def test_estimates_by_hand() -> None:
    entropy, survival = EntropyStop(), SurvivalStop()
    even, certain = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    assert [entropy.sureness(even), entropy.sureness(certain)] == pytest.approx([1 - sqrt(0.2 * log(2)), 1.0])
    assert entropy.sureness(torch.full((1000,), 1e-3)) == 0.0  # the bound says nothing there
    assert [survival.sureness(even), survival.sureness(certain)] == pytest.approx([0.5, 1.0])
    assert entropy.ends(0, [0.1, 0.41]) is False
    assert entropy.ends(0, [0.9, 0.39]) is True
    assert survival.ends(0, [0.6, 0.6]) is False
    assert survival.ends(0, [0.6, 0.6, 0.6]) is True


def test_the_calibration_by_hand() -> None:
    known = Calibration()
    assert known.chance(0.9) == pytest.approx(0.9)
    for accepted in (True, True, False, False, False, False):
        known.learn(0.95, accepted)
    assert known.chance(0.9) == pytest.approx((2 + 4 * 0.9) / (6 + 4))  # 0.95 and 0.9 share the last bin
    assert known.chance(0.2) == pytest.approx(0.2)
    assert known.chance(1.0) == pytest.approx((2 + 4) / 10)


def test_a_drafter_that_is_too_sure_is_soon_found_out_and_requests_are_told_apart() -> None:
    rule = SurvivalStop(0.5)
    chain = DraftTree.chain([3, 4, 5])
    for _ in range(20):
        rule.drafted(1, [0.9, 0.9, 0.9])
        rule.observe(Outcome(1, 0, [9], chain, "model", (), [7]), own=True)
        rule.drafted(2, [0.9, 0.9, 0.9])
        rule.observe(Outcome(2, 0, [9], chain, "model", (0, 1), [3, 4, 7]), own=True)
    assert rule.ends(1, [0.9])
    assert not rule.ends(2, [0.9])
    rule.end(1)
    rule.end(2)
    assert not rule.ends(1, [0.9])
    assert not rule._calibrations


def test_what_others_drafted_teaches_nothing() -> None:
    rule = SurvivalStop(0.5)
    for _ in range(20):
        rule.drafted(1, [0.9])
        rule.observe(Outcome(1, 0, [9], DraftTree.chain([3]), "ngram", (), [7]), own=False)
    assert not rule.ends(1, [0.9])


SETTINGS = [
    ("token", cases.CHAIN_3),
    ("block", cases.CHAIN_3),
    ("traversal", TreeShape.fork(2, 3)),
    ("hsd", TreeShape.fork(2, 3)),
    ("rrs", TreeShape.fork(2, 3)),
]


def inside(rule: Stop) -> Callable[[tuple[int, ...], Sequence[Row]], bool]:
    """The rule as it runs, on the tensors that stand for exact rows."""
    return lambda tokens, rows: rule.ends(0, [rule.sureness(torch.tensor([float(m) for m in row])) for row in rows])


def ended(tree: DraftTree) -> list[int]:
    return [node for node in range(len(tree)) if not tree.children(node)]


@pytest.mark.parametrize(("acceptance", "shape"), SETTINGS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("stop", [EntropyStop(0.63), SurvivalStop(0.4)], ids=lambda rule: rule.name)
def test_with_a_stop_rule_inside_the_law_is_the_targets_exactly(acceptance: str, shape: TreeShape, stop: Stop) -> None:
    """By enumeration, in fractions: V = 2, and rows by the last token, so that branches end at different depths."""
    p, q = cases.by_last((1, 2), (4, 1), (2, 2)), cases.by_last((3, 2), (1, 1), (9, 1))
    setting = Setting(stop.name, p, q, shape, inside(stop), max_tokens=4)
    rule = ACCEPTANCE.create(acceptance)
    depths = {draft.tree.depths[node] for draft, _ in drafts(rule, setting, ()) for node in ended(draft.tree)}
    assert {1, 2} <= depths  # branches end after two tokens and after three
    law = joint_law(rule, setting)
    assert law == target_law(setting)
    assert sum(law.values()) == Fraction(1)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_texts_do_not_change_and_less_is_drafted(name: str, temperature: float) -> None:
    params = [SamplingParams(max_tokens=24, temperature=temperature, seed=seed) for seed in range(3)]
    rule = "auto" if temperature == 0 else "gumbel"

    def requests(stop: str | None) -> list[object]:
        drafter = ModelDrafter(llama(7), 4, stop=stop, stop_below=0.3)
        return list(run(small_engine(drafter, rule), PROMPTS[:3], params))

    short, full = requests(name), requests(None)
    assert outputs(short) == outputs(full)  # type: ignore[arg-type]
    drafted = [sum(one.stats.drafted_tokens for one in each) for each in (short, full)]  # type: ignore[attr-defined]
    assert 0 < drafted[0] < drafted[1]


@pytest.mark.parametrize("stop", ["fast", "", 1, True, 0.5, [], ["entropy"], b"entropy"], ids=repr)
def test_an_unknown_rule_is_refused(stop: object) -> None:
    with pytest.raises(ConfigError, match=r"stop = .* cannot work. Give entropy, survival, or None"):
        stop_rule(stop, None)


@pytest.mark.parametrize("below", [-0.1, 1.1, float("nan"), "0.5", True, [0.5]], ids=repr)
def test_a_bound_that_is_no_share_is_refused(below: object) -> None:
    with pytest.raises(ConfigError, match=r"stop_below = .* cannot work. Give a number from 0 to 1"):
        stop_rule("entropy", below)


def test_each_rule_has_a_bound_of_its_own() -> None:
    assert [stop_rule(name, None).below for name in RULES] == [0.4, 0.3]  # type: ignore[union-attr]
    assert stop_rule(None, None) is None
