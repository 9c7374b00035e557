"""The heads that the study trains, and the published comparison that each answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

VOCABULARIES = (4096, 8192, 16384, 49152)
"""Draft vocabularies; the second is that of all heads where nothing else is said."""
BASE, FOREIGN, MEDUSA = "block", "block, others' answers", "Medusa"
STEPS = (1, 2, 4)
"""Of the training-time test. Four tokens are drafted, so that the last are all."""


@dataclass(frozen=True)
class Arm:
    """A head that is trained.

    Args:
        head: its options that are not the base's.
        rows: of a draft that are learnt; None for all.
        foreign: it learns from texts that the target did not write.
    """

    head: Mapping[str, Any] = field(default_factory=dict)
    rows: int | None = None
    foreign: bool = False

    @property
    def architecture(self) -> str:
        """Of its head."""
        return str(self.head.get("architecture", "block"))


@dataclass(frozen=True)
class Question:
    """What is compared.

    Args:
        title: of its table.
        source: of the published figures.
        published: arm → its τ, or None if that table has no such head.
    """

    title: str
    source: str
    published: Mapping[str, float | None]


def arms(vocabularies: Sequence[int] = VOCABULARIES) -> dict[str, Arm]:
    """All heads, by name; the base first, which makes the answers for all."""
    found = {BASE: Arm(), FOREIGN: Arm(foreign=True)}
    found |= {_sized(size): Arm({"draft_vocab_size": size}) for size in vocabularies if size != vocabularies[1]}
    found |= {_unrolled(steps): Arm({"architecture": "eagle3"}, rows=steps) for steps in STEPS}
    return found | {MEDUSA: Arm({"architecture": "medusa"})}


def questions(vocabularies: Sequence[int] = VOCABULARIES) -> list[Question]:
    """What is published, beside our arms."""
    sized = [_sized(size) for size in vocabularies]
    sized[1] = BASE
    return [
        Question(
            "Architecture",
            "DSpark's tables: Qwen3-4B, MT-Bench, T = 1",
            {MEDUSA: None, _unrolled(STEPS[-1]): 2.39, BASE: 3.64},
        ),
        Question("Whose answers", "FastMTP: MiMo-7B, answers of the data set or its own", {FOREIGN: 2.54, BASE: 2.73}),
        Question(
            "Draft vocabulary",
            "FastMTP: MT-Bench, 8k, 16k and all of 152k",
            dict(zip(sized, (None, 2.426, 2.519, 2.690), strict=True)),
        ),
        Question(
            "Steps of the training-time test",
            "FastMTP: trained for one step, or for three",
            {_unrolled(1): 1.83, _unrolled(2): None, _unrolled(4): 2.73},
        ),
    ]


def _sized(size: int) -> str:
    return f"block, {size} tokens"


def _unrolled(steps: int) -> str:
    return f"EAGLE-3, {steps} step{'s' * (steps > 1)}"
