"""A session: tokens that grow by what is appended, generated and selected."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from specdec.checks import instance, shown, take, text, whole
from specdec.engine.outputs import Generation
from specdec.engine.request import Request
from specdec.errors import InvalidRequestError
from specdec.programs.borders import Borders
from specdec.programs.calls import Call, Host
from specdec.programs.scoring import WAYS, By, Choices, Score, Scored, Selection, chosen
from specdec.prompts.chat import Chat, Message
from specdec.randomness import RandomSource, Stream
from specdec.sampling import SamplingParams
from specdec.sampling.params import SEEDS
from specdec.verify.tree import DraftTree

MOST_FORKS = 1024
_PARAMS = instance(SamplingParams, "SamplingParams")


class Session:
    """A text that grows. It is a list of token ids and nothing else: what the engine has computed of it lies in the
    prefix cache, and is found there.

    `gen`, `select` and `score` return a `Call` at once; `Call.result` waits for it. One of them at a time is under way:
    the next word of the same session waits for the one before. A session is for one thread at a time.

    Args:
        host: where it runs.
        tokens: what it begins with.
        chat: the chat that they are, if they are one.
        params: hold where `gen` is given none; their salt, and what they say of the cache, always.
        branch: is added to every seed (modulo 2**64).
    """

    def __init__(
        self, host: Host, tokens: Sequence[int], chat: Chat | None, params: SamplingParams, branch: int = 0
    ) -> None:
        self._host, self._chat, self._params, self._branch = host, chat, take("params", params, _PARAMS), branch
        self._borders = Borders(host.tokenizer)
        self._tokens = list(tokens)
        self._last: Call[Any] | None = None
        """The call that may be under way."""

    @property
    def tokens(self) -> list[int]:
        """Token ids of all of it."""
        if self._last is not None and not self._last.done:
            self._last.result()
        return list(self._tokens)

    @property
    def text(self) -> str:
        """All of it, special tokens too."""
        decoded: str = self._host.tokenizer.decode(self.tokens, clean_up_tokenization_spaces=False)
        return decoded

    def append(self, more: str | Sequence[Message]) -> Session:
        """Adds a text, or the next messages of a chat.

        The border is healed: the last tokens are encoded anew with the text, so that they are as if both had been one
        text. Messages end the answer before them; the head of the next answer follows them.

        Args:
            more: a text; or messages, in a session that began with a chat.

        Returns:
            This session.

        Raises:
            InvalidRequestError: if it is neither, or the tokenizer or the chat template cannot take it.
        """
        tokens = self.tokens
        if not isinstance(more, str):
            if self._chat is None:
                raise InvalidRequestError(
                    f"{shown(more)} are messages, and the session began with a text. Append text."
                )
            more = self._borders.turn(self._chat, more)
        self._tokens = self._borders.join(tokens, take("text", more, text(empty=True), InvalidRequestError))
        return self

    def gen(self, params: SamplingParams | None = None) -> Call[Generation]:
        """Generates, as `SpeculativeGenerator.generate` does for the session's tokens. The session then goes on behind
        the text: an end token, or what a stop string has cut off, is no part of it.

        Args:
            params: how to sample; None takes the session's.

        Raises:
            InvalidRequestError, ConfigError, OutOfBlocksError: if it cannot be served.
        """
        tokens, params = self.tokens, self._seeded(params)
        if params.n > 1:
            raise InvalidRequestError(f"n = {params.n} texts cannot follow one session. Fork it: fork({params.n}).")
        request = self._host.loop.engine.make_request(tokens, params)

        def value(texts: list[str]) -> Generation:
            [said] = texts
            self._tokens = [*tokens, *self._said(request, said)]
            return Generation.of(request, said)

        return self._call([request], value)

    def select(self, choices: Sequence[str], by: By = "mean", seed: int | None = None) -> Call[Selection]:
        """Goes on with one of several texts. All of them are scored in one pass, in which their common
        beginnings run once.

        | by | compares, of each choice | a probability? |
        |---|---|---|
        | "mean" | log p over its number of tokens | no |
        | "sum" | log p | yes: that the text goes on with it (the shorter of two that begin alike never loses) |
        | "greedy" | whether greedy decoding arrives at it if nothing else may be written | no |
        | "normalised by context" | what the context adds to log p, over its number of tokens | no |
        | "sample" | draws one: the law of the model, given that it says one of them | yes: they add up to 1 |

        The largest wins, the first of equals. p is the target's own law, before temperature and filters. It is that of
        the tokens which the text of the choice is encoded to, after those before them; what else spells the same text
        does not count. If a choice changes tokens at the border, they count in all choices.

        Args:
            choices: distinct texts, at least one.
            by: how they are compared.
            seed: of "sample"; None leaves it to the session's parameters, or to chance.

        Raises:
            InvalidRequestError: for choices or a way that cannot be used.
            OutOfBlocksError: if the choices cannot be held.
        """
        if by not in WAYS:
            raise InvalidRequestError(
                f"by = {shown(by)} is not a way to select. Give one of {', '.join(map(repr, WAYS))}."
            )
        tokens = self.tokens
        start, paths = self._paths(tokens, choices)
        listed = Choices(paths, self._host.eos if by == "greedy" else ())
        probes = [self._probe(tokens[:start], listed.tree)]
        if by == "normalised by context":
            probes.append(self._probe([self._beginning()], listed.tree))
        uniform = self._uniform(seed, len(tokens))

        def value(texts: list[str]) -> Selection:
            within, alone = probes[0].node_logprobs, probes[-1].node_logprobs
            scored = Scored(listed, within, alone)
            scores = WAYS[by](scored)
            index = chosen(by, scores, uniform)
            self._tokens = [*tokens[:start], *paths[index]]
            return Selection(choices[index], index, tuple(scores), tuple(scored.sums(within)))

        return self._call(probes, value)

    def score(self, more: str) -> Call[Score]:
        """How probable a text is after the session's, which stays as it is.

        Args:
            more: a text. A long one is scored in several pieces.

        Raises:
            InvalidRequestError, OutOfBlocksError: if it cannot be served.
        """
        tokens = self.tokens
        start, [path] = self._paths(tokens, [more])
        whole, size = [*tokens[:start], *path], self._host.loop.engine.scheduler.most_probed + 1
        probes = [
            self._probe(whole[:place], DraftTree.chain(whole[place : place + size]))
            for place in range(start, len(whole), size)
        ]

        def value(texts: list[str]) -> Score:
            return Score(path, tuple(score for probe in probes for score in probe.node_logprobs))

        return self._call(probes, value)

    def fork(self, n: int) -> list[Session]:
        """Sessions that begin like this one and go on apart. Child i of n adds branch · n + i to every seed, where
        branch is what this session adds: seeds of siblings differ, and those of their own children too.

        Args:
            n: how many.
        """
        n = take("n", n, whole(1, MOST_FORKS), InvalidRequestError)
        tokens = self.tokens
        return [Session(self._host, tokens, self._chat, self._params, self._branch * n + child) for child in range(n)]

    def _call(self, requests: list[Request], value: Any) -> Call[Any]:
        self._last = Call(self._host.loop, requests, value)
        return self._last

    def _probe(self, tokens: list[int], tree: DraftTree) -> Request:
        return self._host.loop.engine.make_probe(tokens, tree, self._params)

    def _seeded(self, given: SamplingParams | None) -> SamplingParams:
        params = self._params if given is None else take("params", given, _PARAMS, InvalidRequestError)
        seeded: SamplingParams = params
        return seeded if seeded.seed is None else replace(seeded, seed=(seeded.seed + self._branch) % SEEDS)

    def _uniform(self, seed: int | None, position: int) -> float:
        """The random number of a choice at a position."""
        seed = self._params.seed if seed is None else seed
        key = secrets.randbits(64) if seed is None else (seed + self._branch) % SEEDS
        return RandomSource(key).uniform(Stream.CHOICE, position)

    def _paths(self, tokens: list[int], texts: Sequence[str]) -> tuple[int, list[tuple[int, ...]]]:
        """How many tokens of the session all texts leave as they are, and the tokens of each text behind them."""
        if isinstance(texts, str) or not texts:
            raise InvalidRequestError(f"choices = {shown(texts)} cannot work. Give a list of texts, at least one.")
        texts = [take("choice", one, text(), InvalidRequestError) for one in texts]
        joined = self._borders.joined(tokens, texts, kept=1)  # some token must come before
        start = min(_common(tokens, one) for one in joined)
        paths = [tuple(one[start:]) for one in joined]
        for place, path in enumerate(paths):
            if not path or path in paths[:place]:
                raise InvalidRequestError(
                    f"choices[{place}] = {shown(texts[place])} says nothing of its own. Leave it out."
                )
        return start, paths

    def _beginning(self) -> int:
        """The token that stands for no context at all."""
        begins = getattr(self._host.tokenizer, "bos_token_id", None)
        if begins is None and not self._host.eos:
            raise InvalidRequestError(
                "by = 'normalised by context' needs a begin or end token, and the model has none."
            )
        return self._host.eos[0] if begins is None else int(begins)

    def _said(self, request: Request, said: str) -> list[int]:
        """Of the tokens that were generated those that the session keeps."""
        tokens, params = request.output, request.params
        if request.finish_reason != "stop" or params.include_stop_str_in_output:
            return tokens
        if tokens[-1] in request.ends:
            return tokens[:-1]
        return self._borders.cut(tokens, said, params.skip_special_tokens)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
