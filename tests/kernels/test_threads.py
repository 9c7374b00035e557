"""Who runs on how many threads during a step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from specdec import Drafter, DraftRequest, DraftTree, SamplingParams
from specdec.errors import SpecdecError
from specdec.kernels.cpu import threads as team
from specdec.kernels.cpu.threads import num_threads, torch_on_one_thread
from tests.engines import add, small_engine
from tests.kernels.variants import threads


class Watching(Drafter):
    """Notes the numbers of threads, and fails if told to."""

    name = "watching"

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails
        self.seen: list[tuple[int, int]] = []

    def propose(self, requests: list[DraftRequest]) -> list[DraftTree]:  # type: ignore[override]
        """Nothing."""
        self.seen.append((torch.get_num_threads(), num_threads()))
        if self.fails:
            raise SpecdecError("on purpose")
        return [DraftTree()] * len(requests)


@pytest.mark.parametrize("fails", [False, True], ids=["goes well", "fails"])
def test_a_step_leaves_the_cores_to_the_kernels_and_gives_them_back(fails: bool) -> None:
    drafter = Watching(fails)
    with threads(2):
        engine = small_engine(drafter)
        add(engine, [1, 2, 3], SamplingParams(max_tokens=3))
        engine.step()
        assert drafter.seen == [(1, 2)]
        assert (torch.get_num_threads(), num_threads()) == (2, 2)


def test_blocks_may_be_nested() -> None:
    with threads(2), torch_on_one_thread():
        with torch_on_one_thread():
            assert (torch.get_num_threads(), num_threads()) == (1, 2)
        assert (torch.get_num_threads(), num_threads()) == (1, 2)


def test_without_native_kernels_torch_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "native", SimpleNamespace(library=lambda: None))
    with threads(2), torch_on_one_thread():
        assert (torch.get_num_threads(), num_threads()) == (2, 2)
