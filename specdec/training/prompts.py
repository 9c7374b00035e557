"""What the target is asked: mostly what it makes up itself, with tasks, passages and second turns between, and with
prompts of the user's own if there are any.

A prompt that the target makes up is what it writes as the user's turn of its chat template (Xu et al. 2024, Magpie).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import Any

from specdec.checks import number, settle, several, text, whole
from specdec.errors import ConfigError
from specdec.training.denied import Denied
from specdec.training.passages import passages, question
from specdec.training.tasks import task
from specdec.training.writers import Tokens, Way, Writer

Turns = tuple[str, ...]
"""A conversation: the user's words, the answer, the user's words, …"""
MARK = "THE USER'S TURN"
SHORTEST, LONGEST = 20, 800
"""Characters of a prompt that is worth an answer."""
MADE_UP, SECOND, TASK, PASSAGE, GIVEN = SOURCES = ("self-prompted", "second turn", "task", "passage", "given")
"""Where a prompt may come from."""
_SHARE = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")


@dataclass(frozen=True)
class Mix:
    """Where prompts come from, as shares of all that are tried; what the target makes up itself is the rest.

    Args:
        tasks: share of prompts from our own templates.
        passages: share of tasks about a passage of an installed package.
        second_turns: share of user's turns that the target makes up after an earlier exchange.
        given: share of the user's own prompts, as far as the three above leave room; each prompt is used once.
        packages: packages that passages come from; "python" is the standard library.
        most_passages: most distinct passages.
        turn_tokens: longest user's turn that the target makes up, in tokens; longer ones are dropped.
        top_p: top-p of these turns, at temperature 1.
    """

    tasks: float = 0.15
    passages: float = 0.2
    second_turns: float = 0.1
    given: float = 0.3
    packages: tuple[str, ...] = ("python", "numpy", "scipy", "torch", "transformers")
    most_passages: int = 2000
    turn_tokens: int = 100
    top_p: float = 0.95

    def __post_init__(self) -> None:
        share = dict.fromkeys(("tasks", "passages", "second_turns", "given"), _SHARE)
        counts = {"most_passages": whole(), "turn_tokens": whole(1)}
        settle(self, {**share, **counts, "packages": several(text(), "names of packages"), "top_p": _SHARE})
        if self.tasks + self.passages + self.second_turns > 1:
            raise ConfigError("The shares of tasks, passages and second_turns are more than 1 together. Lower them.")

    def counts(self, size: int) -> tuple[int, int, int, int]:
        """Of `size` prompts how many are tasks, passages, second turns, and the user's own if there are enough."""
        tasks, quoted, second = (round(size * share) for share in (self.tasks, self.passages, self.second_turns))
        return tasks, quoted, second, max(min(round(size * self.given), size - tasks - quoted - second), 0)


@dataclass(frozen=True)
class Asked:
    """A conversation that waits for an answer.

    Args:
        turns: the user's words first and last.
        source: of the last ones, one of `SOURCES`.
    """

    turns: Turns
    source: str


class Template:
    """A tokenizer's chat template, cut where a writer takes over.

    Raises:
        ConfigError: if the tokenizer has none.
    """

    def __init__(self, tokenizer: Any) -> None:
        if getattr(tokenizer, "chat_template", None) is None:
            raise ConfigError(
                "The target's tokenizer has no chat template. Give prompts by data.path=… and chat=false."
            )
        self._tokenizer = tokenizer

    def asked(self, turns: Turns) -> str:
        """The conversation up to where the answer begins."""
        return self._rendered(turns, add_generation_prompt=True)

    def begun(self, turns: Turns = ()) -> str:
        """The conversation up to where the user's next words begin."""
        return self._rendered((*turns, MARK)).split(MARK)[0]

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of rendered texts."""
        return (
            [list(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]] if texts else []
        )

    def decode(self, texts: Sequence[Tokens]) -> list[str]:
        """The words of token ids, without special tokens."""
        found: list[str] = self._tokenizer.batch_decode(list(texts), skip_special_tokens=True) if texts else []
        return found

    def _rendered(self, turns: Turns, **options: Any) -> str:
        roles = ("user", "assistant")
        messages = [{"role": roles[index % 2], "content": words} for index, words in enumerate(turns)]
        rendered: str = self._tokenizer.apply_chat_template(messages, tokenize=False, **options)
        return rendered


@dataclass
class Prompter:
    """Makes prompts, none of them twice.

    Args:
        template: of the target.
        writer: the target.
        mix: where they come from.
        denied: what no prompt may overlap with.
        eos: tokens that end a turn.
        seed: all prompts follow from it, and from the number of their chunk.
        given: prompts of the user's own.
    """

    template: Template
    writer: Writer
    mix: Mix
    denied: Denied
    eos: frozenset[int]
    seed: int
    given: Sequence[str] = ()
    _seen: set[bytes] = field(default_factory=set)
    _passages: list[str] | None = None

    def __post_init__(self) -> None:
        self.given = Random(f"{self.seed} given").sample(self.given, len(self.given))

    def prompts(self, size: int, chunk: int, exchanges: Sequence[Turns]) -> list[Asked]:
        """At most `size` conversations.

        Args:
            size: how many are tried.
            chunk: its number.
            exchanges: answered conversations, of which some go on.
        """
        random = Random(f"{self.seed} {chunk}")
        tasks, quoted, second, own = self.mix.counts(size)
        given = self.given[chunk * own : (chunk + 1) * own]
        going_on = random.sample(list(exchanges), min(second, len(exchanges)))
        anew = size - tasks - quoted - len(given) - len(going_on)
        asked = self._made_up([*going_on, *[()] * anew], random.getrandbits(40))
        known = self._known() if quoted else []
        asked += [Asked((task(random),), TASK) for _ in range(tasks)]
        asked += [Asked((question(known, random),), PASSAGE) for _ in range(quoted) if known]
        asked += [Asked((words,), GIVEN) for words in given]
        return [one for one in asked if self._take(one.turns)]

    def remember(self, turns: Turns) -> None:
        """Of an earlier run: not to be made again."""
        self._seen.add(_mark(turns))

    def _made_up(self, before: list[Turns], seed: int) -> list[Asked]:
        """Each conversation and one more turn of the user, of those turns that end and are worth an answer."""
        prompts = self.template.encode([self.template.begun(turns) for turns in before])
        ways = [Way(self.mix.turn_tokens, 1.0, self.mix.top_p, seed + index) for index in range(len(prompts))]
        written = self.writer.write(prompts, ways)
        ended = [(turns, tokens) for turns, tokens in zip(before, written, strict=True) if tokens[-1] in self.eos]
        texts = self.template.decode([tokens for _, tokens in ended])
        return [
            Asked((*turns, said.strip()), SECOND if turns else MADE_UP)
            for (turns, _), said in zip(ended, texts, strict=True)
            if is_worth(said)
        ]

    def _take(self, turns: Turns) -> bool:
        mark = _mark(turns)
        if mark in self._seen or any(map(self.denied.holds, turns)):
            return False
        self._seen.add(mark)
        return True

    def _known(self) -> list[str]:
        if self._passages is None:
            self._passages = passages(self.mix.packages, self.mix.most_passages, self.seed)
        return self._passages


def is_worth(said: str) -> bool:
    """Whether a user could have said it: not too short, in Latin letters, and not the same words over and over."""
    said, words = said.strip(), said.casefold().split()
    return (
        SHORTEST <= len(said) <= LONGEST
        and len(words) >= 3
        and sum(map(str.isascii, said)) >= 0.97 * len(said)
        and len(set(words)) >= 0.4 * len(words)
    )


def _mark(turns: Turns) -> bytes:
    """Stands for a conversation; 8 bytes."""
    return blake2b("\0".join(turns).casefold().encode(errors="surrogatepass"), digest_size=8).digest()
