"""Which files are mutated, and who judges each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import specdec
from experiments._judges import Acceptance, ByCertificate, ByTests, Judge, expected
from experiments._mutants import Mutant, mutants
from specdec.registry import RULES

PACKAGE = Path(specdec.__file__).parent
ROOT = PACKAGE.parent
RULE_FILES = {
    "draws": ("multiround", "rrs", "gumbel"),
    "residuals": ("multiround", "block"),
    "nodewise": ("multiround", "rrs"),
    "races": ("gumbel",),
    **{
        name: (name,)
        for name in ("token", "block", "multiround", "rrs", "kseq", "traversal", "hsd", "gumbel", "typical", "greedy")
    },
}
"""File of `specdec/verify` → rules that run all of it. In the order of imports."""
CACHE = ("tests/cache/test_blocks.py", "tests/cache/test_pool.py", "tests/cache/test_paged.py", "tests/cache")
SAMPLING = ("tests/sampling/test_sampling.py", "tests/sampling")
CONSTRAINED = "tests/engine/test_constraints.py::"
ROWS = "tests/proof/test_transformed_rows.py"
ROOMS = {
    "cache/blocks": CACHE,
    "cache/layout": CACHE,
    "cache/pool": CACHE,
    "cache/paged": CACHE,
    "sampling/params": ("tests/sampling/test_params.py", *SAMPLING),
    "sampling/transform": (
        *SAMPLING, ROWS, f"{CONSTRAINED}test_greedy_takes_the_likeliest_token_that_may_follow",
        "tests/engine/test_limits.py::test_logits_are_edited_only_until_the_least_length_is_reached",
        "tests/engine/test_limits.py::test_ids_outside_the_vocabulary_are_refused_by_name",
        "tests/engine/test_limits.py::test_greedy_texts_within_limits_are_those_of_transformers_generate",
    ),
    "sampling/draws": (*SAMPLING, "tests/engine/test_logprobs.py"),
    "sampling/constraints": (
        "tests/sampling/test_constraints.py", f"{CONSTRAINED}test_the_masks_of_a_tree_by_hand",
        f"{CONSTRAINED}test_greedy_takes_the_likeliest_token_that_may_follow",
        f"{CONSTRAINED}test_every_drafter_gives_the_text_of_plain_decoding_under_a_constraint",
    ),
    "engine/verdicts": ("tests/engine/test_verdicts.py", ROWS),
    "engine/scheduler": ("tests/engine/test_scheduler.py", "tests/engine/test_queue.py"),
    "engine/request": ("tests/engine/test_request.py",),
    "engine/text": ("tests/engine/test_text.py", "tests/engine/test_request.py"),
    "engine/batch": ("tests/engine/test_batch.py",),
    "engine/logprobs": ("tests/engine/test_logprobs.py",),
    "prompts/encoding": ("tests/prompts/test_encoding.py",),
    "prompts/plain": ("tests/prompts/test_plain.py",),
    "prompts/chat": ("tests/prompts/test_chat.py",),
    "prompts/entry": ("tests/prompts/test_entry.py", "tests/prompts/test_chat.py"),
    "prompts/files": ("tests/prompts/test_files.py", "tests/prompts/test_records.py"),
    "prompts/records": ("tests/prompts/test_records.py",),
    "prompts/subsets": ("tests/prompts/test_subsets.py", "tests/prompts/test_sources.py"),
    "policy/product": ("tests/policy",),
    "measure/metrics": ("tests/measure/test_metrics.py",),
}  # fmt: skip
"""File of `specdec` → its tests, the quick ones first; a folder stands for those of its files that were not named."""
BY_HAND = "by hand"
NAMES = (*RULE_FILES, *ROOMS, BY_HAND)


@dataclass(frozen=True)
class Part:
    """One file: how it stands, what is wrong with it in turn, and who judges.

    Args:
        name: one of NAMES.
        control: the file as it is, which its judge must let live.
        mistakes: its mutants.
        judges: one a mutant; or one for all of them.
    """

    name: str
    control: Mutant
    mistakes: tuple[Mutant, ...]
    judge: Judge


def parts(name: str) -> Iterator[Part]:
    """Everything that goes by that name.

    Args:
        name: one of NAMES.
    """
    if name == BY_HAND:
        yield from _by_hand()
    elif name in ROOMS:
        yield _part(name, f"{name}.py", ByTests(test_files(ROOMS[name])))
    else:
        yield _part(name, f"{name}.py", _certificate(name))


def _part(name: str, file: str, judge: Judge) -> Part:
    folder = PACKAGE / "verify" if name in RULE_FILES else PACKAGE
    source = (folder / file).read_text(encoding="utf-8")
    return Part(name, Mutant(file, 0, "", "", "", source), tuple(mutants(source, file)), judge)


def _certificate(name: str) -> ByCertificate:
    files = list(RULE_FILES)
    acceptance: Acceptance = {}
    for rule in RULE_FILES[name]:
        acceptance |= expected(RULES.create(rule))
    return ByCertificate(RULE_FILES[name], (*files[files.index(name) + 1 :], "select"), acceptance)


def test_files(listed: Sequence[str]) -> tuple[str, ...]:
    """Files in the order given, each once, those that there are; single tests as they are."""
    found: dict[str, None] = {}
    for entry in listed:
        path = ROOT / entry
        if "::" in entry:
            found[entry] = None
        for file in sorted(path.glob("test_*.py")) if path.is_dir() else [path] * path.exists():
            found[file.relative_to(ROOT).as_posix()] = None
    return tuple(found)


test_files.__test__ = False  # type: ignore[attr-defined]


def _by_hand() -> Iterator[Part]:
    """The mistakes of `by_hand.json`: in a file of `specdec`, one text for another, and the tests that must see it.

    Raises:
        ValueError: if the text is not in the file, or more than once.
    """
    for entry in json.loads(Path(__file__).with_name("by_hand.json").read_text(encoding="utf-8")):
        source = (PACKAGE / entry["file"]).read_text(encoding="utf-8")
        if source.count(entry["old"]) != 1:
            raise ValueError(
                f"by_hand.json: {entry['old']!r} is {source.count(entry['old'])} times in {entry['file']}."
            )
        line = source[: source.index(entry["old"])].count("\n") + 1
        before, after = (entry[side].strip().partition("\n")[0] for side in ("old", "new"))
        control = Mutant(entry["file"], line, entry["what"], before, after, source)
        broken = replace(control, source=source.replace(entry["old"], entry["new"]))
        yield Part(BY_HAND, control, (broken,), ByTests(test_files(entry["tests"])))
