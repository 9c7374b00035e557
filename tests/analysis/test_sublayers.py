"""The search for sublayers: what it counts, what it promises, and that it finds the best."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml

from specdec import ConfigError, Engine, SamplingParams
from specdec.analysis import sublayers
from specdec.analysis.sublayers import Answers, Candidate, Costs, Sublayers, Text, search
from specdec.commands import layers_search
from specdec.commands.application import config_dir
from specdec.drafters.layer_skip import LayerSkipDrafter
from specdec.drafters.none import NoDrafter
from specdec.models.transformers import TransformersModel
from specdec.policy.curve import CostCurve
from specdec.study import preflight
from tests.engines import run
from tests.tiny import llama_module

PROMPTS = [[5, 17, 3, 40, 40, 9], [1], [2, 3] * 200]
COSTS = Costs(CostCurve((1, 2, 64), (10.0, 11.0, 73.0)), attention=0.25, mlp=0.75)


def silenced() -> TransformersModel:
    """A model of 3 layers of which one attention and one feed-forward part say nothing."""
    module = llama_module(3, num_layers=3, max_context=512)
    module.model.layers[1].self_attn.o_proj.weight.data.zero_()
    module.model.layers[2].mlp.down_proj.weight.data.zero_()
    return TransformersModel(module, "tiny")


def texts_of(model: TransformersModel, length: int = 24) -> list[Text]:
    requests = run(Engine(model, NoDrafter()), PROMPTS, SamplingParams(max_tokens=length))
    return [Text(request.prompt, request.output) for request in requests]


def test_a_part_that_lacks_only_what_says_nothing_agrees_everywhere() -> None:
    model = silenced()
    answers = Answers(model, texts_of(model))
    assert answers.agreement(model) == 1
    assert answers.agreement(model.without([1], [2])) == 1
    assert answers.agreement(model.without([0], [])) < 1


@torch.inference_mode()
def test_agreement_is_the_share_of_tokens_that_transformers_finds_to_be_predicted() -> None:
    model = silenced()
    texts = texts_of(model)[:1]
    whole, part = (llama_module(3, num_layers=3, max_context=512) for _ in range(2))
    for module in (whole, part):
        module.load_state_dict(model.module.state_dict())
    part.model.layers[0].mlp.down_proj.weight.data.zero_()
    prompt, answer = list(texts[0].prompt), list(texts[0].answer)
    held = whole(input_ids=torch.tensor([prompt[:-1]]), use_cache=True).past_key_values
    ids = torch.tensor([[prompt[-1], *answer[:-1]]])
    said = part(input_ids=ids, past_key_values=held, use_cache=True).logits[0].argmax(-1).tolist()
    want = sum(a == b for a, b in zip(said, answer, strict=True)) / len(answer)
    assert Answers(model, texts).agreement(model.without([], [0])) == want


def test_a_candidates_speed_by_hand() -> None:
    """Without 4 attentions and 8 feed-forward parts a draft token takes 10 - 1 - 6 = 3. γ = 1: 1.5 tokens in 3 + 11;
    γ = 2: 1.75 tokens in 6 + 12; γ = 3: 1.875 tokens in 9 + 13."""
    skips = (0, 1, 2, 3), tuple(range(8))
    found = Candidate.of(skips, 0.5, COSTS, longest=3)
    assert (found.skips, found.agreement, found.cost, found.num_draft_tokens) == (skips, 0.5, 0.3, 1)
    assert found.speedup == pytest.approx(10 * 1.5 / 14)
    sure = Candidate.of(skips, 1.0, COSTS, longest=3)
    assert sure.num_draft_tokens == 3
    assert sure.speedup == pytest.approx(10 * 4 / 22)


def test_no_part_of_a_model_takes_less_than_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says of the others: what a pass without almost everything took is what is left of it."""
    model = silenced()
    answers = Answers(model, texts_of(model))
    assert all(seconds > 0 for seconds in answers.seconds([model, model.without([1], [2])]))
    monkeypatch.setattr(sublayers, "measure", lambda model: COSTS.whole)
    for seconds in ([8.0, 2.0, 4.0, 2.0], [8.0, 6.0, 7.0, 2.0], [8.0, 9.0, 7.0, 2.0]):
        monkeypatch.setattr(answers, "seconds", lambda parts, seconds=seconds: seconds)
        costs = Costs.of(model, answers)
        assert costs.draft(((0, 1, 2), (0, 1, 2))) == pytest.approx(2.5)
        assert min(costs.attention, costs.mlp) >= 0
    monkeypatch.setattr(answers, "seconds", lambda parts: [8.0, 9.0, 9.0, 9.0])
    assert Costs.of(model, answers) == Costs(COSTS.whole, 0.0, 0.0)


def test_the_search_finds_the_best_of_all() -> None:
    """Of 62 candidates, some of which are judged for the first time late."""
    damage = {"attention": (0.02, 0.5, 0.05), "mlp": (0.4, 0.01, 0.3)}
    asked: list[Sublayers] = []

    def judge(skips: Sublayers) -> Candidate:
        asked.append(skips)
        kept = 1.0
        for kind, left_out in zip(damage, skips, strict=True):
            for layer in left_out:
                kept *= 1 - damage[kind][layer]
        return Candidate.of(skips, kept, Costs(COSTS.whole, 0.9, 1.2), longest=4)

    found = search(3, judge, trials=50)
    subsets = [tuple(layer for layer in range(3) if bits[layer]) for bits in product((0, 1), repeat=3)]
    everything = [judge((a, m)) for a in subsets for m in subsets if 0 < len(a) + len(m) < 6]
    assert found[0].speedup == max(each.speedup for each in everything)
    assert found == sorted(found, key=lambda each: -each.speedup)
    assert len({each.skips for each in found}) == len(found) < 50
    singles = [((layer,), ()) for layer in range(3)] + [((), (layer,)) for layer in range(3)]
    assert asked[:6] == singles
    assert search(3, judge, trials=50) == found, "a seed's search is always the same"
    assert [each.skips for each in search(3, judge, trials=2)] in ([singles[0], singles[1]], [singles[1], singles[0]])


def test_the_command_prints_and_writes_a_drafter_that_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Here a draft token costs nothing like a pass, and the silent sublayers are free to go."""
    model = silenced()
    monkeypatch.setattr(layers_search, "_answers", lambda job: (model, texts_of(model)))
    monkeypatch.setattr(Costs, "of", lambda model, answers: Costs(COSTS.whole, 2.0, 1.0))
    monkeypatch.setattr(sys, "argv", ["specdec layers search", "trials=40", f"yaml={tmp_path}/best.yaml"])
    layers_search.main()
    lines = capsys.readouterr().out.splitlines()
    assert any(" tokens. The best promises 1." in line for line in lines)
    [config] = preflight.jobs(config_dir(), "study", lines[-1].split())
    written = yaml.safe_load((tmp_path / "best.yaml").read_text(encoding="utf-8"))
    assert dict(config.drafter) == {**config.drafter, **written}
    drafter = LayerSkipDrafter(**{key: value for key, value in written.items() if key != "_target_"})
    assert (drafter.skip_attention, drafter.skip_mlp) == ((1,), (2,))


@pytest.mark.slow
@pytest.mark.xdist_group("real model")
def test_the_command_searches_the_embedded_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["trials=4", "data.limit=1", "sampling.max_tokens=16", "precision=bfloat16"]
    monkeypatch.setattr(sys, "argv", ["specdec layers search", *words])
    layers_search.main()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("4 candidates, judged on 16 tokens. ") for line in lines)
    [config] = preflight.jobs(config_dir(), "study", lines[-1].split())
    assert len(config.drafter.skip_attention) == 1


def test_without_optuna_the_search_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'specdec-lab\[optuna\]'"):
        sublayers.require_optuna()
