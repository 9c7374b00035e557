"""The study of faults: its figures by hand, the page it writes, and a small run of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import faults
from experiments._guests import Known
from experiments._memory import line
from experiments._results import publish
from specdec.testing.tiny import save


def test_the_line_of_least_squares_by_hand() -> None:
    """Through (0, 1), (1, 3), (2, 2): mean 1 and 2, slope 1/2, squares of the rest 1/4 + 1 + 1/4."""
    slope, error = line([0, 1, 2], [1, 3, 2])
    assert slope == pytest.approx(0.5)
    assert error == pytest.approx((1.5 / 1 / 2) ** 0.5)


def test_an_answer_is_known_by_its_bits() -> None:
    one = Known({}, [1, 2, 3], [-0.5, -0.25, -1.0])
    pieces = [
        {"token_ids": [1], "logprobs": {"token_logprobs": [-0.5]}},
        {"token_ids": [2, 3], "logprobs": {"token_logprobs": [-0.25, -1.0]}},
    ]
    assert one.matches(pieces)
    assert not one.matches(pieces[:1])
    assert not one.matches([pieces[0], {"token_ids": [2, 3], "logprobs": {"token_logprobs": [-0.25, -1.0000001]}}])


def test_a_part_of_a_page_is_written_anew_and_the_others_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n## Faults\nold\n\n### and older\n\n## Last\nstays\n", encoding="utf-8")
    publish("experiments.faults", ["tries=1"], {"markdown": page}, {}, "new\n", faults.HEAD)
    found = page.read_text(encoding="utf-8")
    assert found == "# Page\n\n## Faults\n\n`python -m experiments.faults tries=1`\n\nnew\n\n## Last\nstays\n"


@pytest.mark.slow
def test_no_fault_costs_others_anything(tmp_path: Path) -> None:
    """Each is tried once against servers of their own; SIGKILL alone loses what ran, and of a
    replica what it had begun to stream."""
    save(tmp_path / "model", faults.of_bytes(), max_context=2048)
    *_, found = faults.study(tmp_path / "model", tries=1, requests=80)
    assert set(found["faults"]) == {*faults.FAULTS, *faults.SIGNALS, faults.REPLICA}
    replica = found["faults"].pop(faults.REPLICA)
    assert replica.pop("lost", 0) <= 4
    assert +replica == {"tries": 1, "beside": 8}
    for name, tally in found["faults"].items():
        lost = {"lost": 4} if name == "SIGKILL under load" else {}
        assert +tally == {"tries": 1, "beside": 4, **lost}, name
    assert len(found["memory"]["mebibytes"]) == 40
    assert f"| SIGKILL under load | 1 | 4 | 4 | {' | '.join('0' * 4)} |" in faults.told(found)


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    """What was tried as often as is asked stays; what was tried less often is tried again."""
    save(tmp_path / "model", faults.of_bytes(), max_context=2048)
    names = [*faults.FAULTS, *faults.SIGNALS, faults.REPLICA]
    before = {name: {"tries": 1, "beside": 77} for name in names} | {names[0]: {"tries": 3, "beside": 77}}
    first, last = faults.study(tmp_path / "model", tries=1, requests=40, before=before)
    assert first["memory"] is None
    assert {name: tally["beside"] for name, tally in last["faults"].items()} == {
        **dict.fromkeys(names, 77),
        names[0]: 4,
    }
