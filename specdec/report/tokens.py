"""What the token view shows: which pieces of text the drafter proposed, and what the target refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

from specdec.report.methods import Method

ROOM = 700_000
"""Characters that the view may take on the page; with more, it shows fewer prompts."""

BETWEEN_TURNS = "\n\n"
"""Before the first token of a later answer."""

PromptKey: TypeAlias = tuple[str, str, str]
"""Category, question id and text of a prompt: the same prompt in every run."""


def token_view(methods: Iterable[Method], room: int = ROOM) -> dict[str, Any]:
    """Data of the view, for the page's script.

    Args:
        methods: runs; those without steps are left out.
        room: characters of text to stay below, if one prompt can.

    Returns:
        `prompts`: label, category and text, a prompt each; `left_out`: how many more there are; `texts`: run key →
        number of the prompt → steps, each as [pieces, for each piece "1" if the drafter proposed it, refused or None,
        the drafter].
    """
    texts = {method.key: _texts(method) for method in methods if method.run.steps}
    every = list(dict.fromkeys(prompt for by_prompt in texts.values() for prompt in by_prompt))
    selection = _fitting(_in_turns(every), texts, room)
    numbers = {prompt: number for number, prompt in enumerate(p for p in every if p in selection)}
    return {
        "prompts": [{"category": category, "id": name, "text": text} for category, name, text in numbers],
        "left_out": len(every) - len(numbers),
        "texts": {
            key: {numbers[prompt]: steps for prompt, steps in by_prompt.items() if prompt in numbers}
            for key, by_prompt in texts.items()
        },
    }


def _texts(method: Method) -> dict[PromptKey, list[list[Any]]]:
    """Steps by prompt; of a prompt that was decoded several times, the first text."""
    prompts: dict[int, PromptKey] = {}
    for row in method.run.rows:
        prompt = (row["category"], row["question_id"], row["prompt"])
        if prompt not in prompts.values():
            prompts[row["index"]] = prompt
    steps: dict[PromptKey, list[list[Any]]] = {prompt: [] for prompt in prompts.values()}
    turns: dict[int, int] = {}
    for step in sorted(method.run.steps, key=lambda step: (step["index"], step["step"])):
        if step["index"] in prompts:
            flags, pieces = "".join("01"[proposed] for proposed in step["proposed"]), list(step["texts"])
            turn = step.get("turn", 0)  # runs of an older specdec have one turn alone
            if pieces and turn > turns.get(step["index"], 0):
                pieces[0], turns[step["index"]] = f"{BETWEEN_TURNS}{pieces[0]}", turn
            steps[prompts[step["index"]]].append([pieces, flags, step["rejected"], step["drafter"]])
    return steps


def _in_turns(prompts: Sequence[PromptKey]) -> list[PromptKey]:
    """One of each category, then another of each, and so on."""
    queues: dict[str, list[PromptKey]] = {}
    for prompt in prompts:
        queues.setdefault(prompt[0], []).append(prompt)
    return [prompt for turn in zip_longest(*queues.values()) for prompt in turn if prompt is not None]


def _fitting(
    prompts: Sequence[PromptKey], texts: dict[int, dict[PromptKey, list[list[Any]]]], room: int
) -> set[PromptKey]:
    """As many of the first prompts as there is room for, and at least one."""
    selection: set[PromptKey] = set()
    for prompt in prompts:
        steps = [step for by_prompt in texts.values() for step in by_prompt.get(prompt, [])]
        room -= len(prompt[2]) + sum(20 + len(step[3]) + sum(4 + len(piece) for piece in step[0]) for step in steps)
        if room < 0 and selection:
            break
        selection.add(prompt)
    return selection
