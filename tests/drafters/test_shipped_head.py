"""The head that ships for the embedded model."""

from __future__ import annotations

from specdec import SamplingParams, SpeculativeGenerator
from specdec.heads.shipped import SHIPPED
from specdec.models.loading import LoadedModel
from specdec.prompts import load_prompts
from specdec.stats import DecodingStats

MOST_BYTES = 16_000_000


def test_it_is_small_and_has_a_card() -> None:
    [folder] = SHIPPED.iterdir()
    assert sum(file.stat().st_size for file in folder.iterdir()) < MOST_BYTES
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "specdec train" in card
    assert "## What it is bad at" in card


def test_it_drafts_what_the_target_says(embedded: LoadedModel) -> None:
    """Two tokens a pass and more over the demo's prompts, two of which are copied from and two not; texts are plain
    decoding's."""
    chats = [[{"role": "user", "content": record.prompt}] for record in load_prompts(None)]
    params, found = SamplingParams(max_tokens=40), {}
    for name in ("none", "head"):
        with SpeculativeGenerator(embedded, name) as generator:
            found[name] = generator.generate(chats, params, progress=False)
    assert [one.token_ids for one in found["head"]] == [one.token_ids for one in found["none"]]
    assert DecodingStats.total([one.stats for one in found["head"]]).mean_accepted_length > 2
