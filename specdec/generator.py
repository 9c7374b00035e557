"""`SpeculativeGenerator`, the main class of the Python API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedModel

from specdec.checks import either, instance, mapping, several, take, text
from specdec.drafters.base import Drafter
from specdec.engine import Engine, EngineConfig, EngineLoop
from specdec.engine.batch import OnError, make_requests
from specdec.engine.outputs import BatchError, Generation, StreamEvent
from specdec.engine.request import Request
from specdec.errors import ConfigError, SpecdecError
from specdec.models.loading import LoadedModel, load, load_given
from specdec.policy.base import Policy
from specdec.programs import Host, Session
from specdec.prompts import Chat
from specdec.prompts.encoding import PromptEncoder
from specdec.prompts.entry import Prompt, read
from specdec.registry import DRAFTERS, POLICIES, RULES
from specdec.sampling import SamplingParams
from specdec.stats import DecodingStats
from specdec.verify.base import Rule
from specdec.verify.select import AUTO

Drafters = str | Drafter | Sequence[str | Drafter]
"""A drafter or its name, or several of them."""
_DRAFTERS = several(
    either(text(), instance(Drafter, "a drafter")), "the name of a drafter, a drafter, or a list of these", least=1
)
_POLICY = either(text(), instance(Policy, "a policy")).but("the name of a policy, or a policy")
_RULE = either(text(), instance(Rule, "a rule")).but("the name of a rule, 'auto', or a rule")
_OPTIONS = mapping(text(), instance(object, "anything"), "the drafter's options by name").or_none()


class SpeculativeGenerator:
    """Generates text with a target model and a drafter; the output is the target's own.

    >>> from specdec import SamplingParams, SpeculativeGenerator
    >>> with SpeculativeGenerator.from_pretrained(drafter="ngram") as generator:
    ...     [generation] = generator.generate("Count: 1 2 3 1 2 3 1 2 3", SamplingParams(max_tokens=8))
    >>> generation.text
    ' 1 2 3 1'
    >>> generation.stats.mean_accepted_length > 1
    True

    Args:
        loaded: target, tokenizer and end tokens.
        drafter: a name, a drafter, or several; the policy chooses among several.
        rule: a name, "auto", or a rule.
        drafter_options: keyword arguments for a drafter given by name.
        config: sizes of the engine.
        policy: who drafts, and how deep: a name ("always", "product") or a policy.

    Raises:
        ConfigError: for an unknown name, or parts that do not fit together.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        drafter: Drafters = "ngram",
        rule: str | Rule = AUTO,
        drafter_options: Mapping[str, Any] | None = None,
        config: EngineConfig | None = None,
        policy: str | Policy = "always",
    ) -> None:
        drafters = _make_drafters(drafter, drafter_options)
        policy, rule = take("policy", policy, _POLICY), take("rule", rule, _RULE)
        chooser = POLICIES.create(policy) if isinstance(policy, str) else policy
        if isinstance(rule, str) and rule != AUTO:
            RULES.get(rule)  # an unknown name fails here, not at the first request
        self.loaded, self.tokenizer = loaded, loaded.tokenizer
        self._encoder = PromptEncoder(loaded.tokenizer)
        self.engine = Engine(
            loaded.model, drafters, rule, config, loaded.tokenizer, loaded.eos, chooser, loaded.defaults
        )
        self.loop = EngineLoop(self.engine)

    @classmethod
    def from_pretrained(
        cls,
        target: str | PreTrainedModel | None = None,
        drafter: Drafters = "ngram",
        rule: str | Rule = AUTO,
        dtype: str = "float32",
        device: str = "cpu",
        *,
        num_draft_tokens: int | None = None,
        drafter_options: Mapping[str, Any] | None = None,
        config: EngineConfig | None = None,
        policy: str | Policy = "always",
        **load_options: Any,
    ) -> SpeculativeGenerator:
        """Loads the target and makes a generator for it.

        Args:
            target: local folder, GGUF file or hub id; None takes the embedded SmolLM2-135M-Instruct. Or a model that
                transformers has loaded, together with `tokenizer=…`; it is copied and stays as it is.
            drafter, rule, drafter_options, config, policy: see the class.
            dtype, device: dtype and device of the target.
            num_draft_tokens: γ, if `drafter` is a name.
            load_options: see `specdec.models.loading.load` (allow_pickle, trust_remote_code, revision,
                generation_config).

        Raises:
            ConfigError, UnsupportedModelError, OutOfBlocksError: see `load` and the class.
        """
        options = dict(take("drafter_options", drafter_options, _OPTIONS) or {})
        if num_draft_tokens is not None:
            options["num_draft_tokens"] = num_draft_tokens
        drafters = _make_drafters(drafter, options)  # before anything is loaded
        if isinstance(target, PreTrainedModel):
            loaded = load_given(target, dtype=dtype, device=device, **load_options)
        else:
            loaded = load(target, dtype=dtype, device=device, **load_options)
        return cls(loaded, drafters, rule, config=config, policy=policy)

    def with_drafter(
        self,
        drafter: Drafters,
        rule: str | Rule = AUTO,
        drafter_options: Mapping[str, Any] | None = None,
        policy: str | Policy = "always",
    ) -> SpeculativeGenerator:
        """A second generator with the same weights, and its own engine and cache."""
        return SpeculativeGenerator(self.loaded, drafter, rule, drafter_options, self.engine.config, policy)

    @property
    def default_params(self) -> SamplingParams:
        """The parameters for callers that set nothing: the model's own sampling defaults, unless it was loaded
        with generation_config="none"."""
        return SamplingParams().over(self.loaded.defaults)

    def __enter__(self) -> SpeculativeGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Aborts all running requests and frees their cache blocks."""
        self.loop.abort_all()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        on_error: OnError = "raise",
        progress: bool | None = None,
    ) -> list[Generation]:
        """Generates texts for one prompt or for many, in batches.

        Args:
            prompts: a text, token ids, chat messages, a `Chat`, the output of a tokenizer, or a batch of these
                (`specdec.prompts.entry`).
            params: for all prompts, or one per prompt. For fields that are left out, the model's own
                generation_config.json counts (`default_params`); without it decoding is greedy.
            on_error: "raise" refuses a batch with a bad prompt before any work is done. If a request fails later, it
                raises a `BatchError` after the others have finished. "return" puts errors into the generations.
            progress: show a progress bar; None shows one for more than 16 prompts.

        Returns:
            One generation per prompt, in order. If the parameters of a prompt have n > 1, its n texts follow
            one another, by their seeds.

        Raises:
            InvalidRequestError, ConfigError, OutOfBlocksError, BatchError: see `on_error`.
        """
        requests = self._make_requests(prompts, params, on_error)
        done: dict[int, Generation] = {}
        with _progress_bar(len(requests), progress) as advance:
            for event in self._run(requests):
                if event.generation is not None:
                    done[event.index] = event.generation
                    advance(event.generation.stats)
        generations = [done[index] for index in range(len(requests))]
        if on_error == "raise" and any(generation.error is not None for generation in generations):
            raise BatchError(generations)
        return generations

    def stream(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> Iterator[StreamEvent]:
        """Like `generate`, but yields the text of every request as soon as it is certain.

        Prompts are checked at once. If you leave the loop early, the running requests are aborted.
        """
        return self._run(self._make_requests(prompts, params, "raise"))

    def session(self, prompt: Prompt, params: SamplingParams | None = None) -> Session:
        """Begins a text that a program appends to, generates, selects and forks (docs/programs.md). It raises the
        errors of `encode`.

        Args:
            prompt: a text, token ids, chat messages or a `Chat`.
            params: for what the session generates, unless it is told otherwise.
        """
        given, params = read(prompt), params or SamplingParams()
        chat, host = given if isinstance(given, Chat) else None, Host(self.loop, self.tokenizer, self.loaded.eos)
        return Session(host, self.encode(given), chat, params)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of one prompt; a chat goes through the tokenizer's chat template.

        Raises:
            InvalidRequestError: if it is not a prompt, or if the tokenizer or the template cannot process it.
        """
        return self._encoder.encode(prompt)

    def _make_requests(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        on_error: OnError,
    ) -> list[Request | SpecdecError]:
        return make_requests(prompts, params, on_error, self.encode, self.engine.make_request, self.loaded.defaults)

    def _run(self, requests: Sequence[Request | SpecdecError]) -> Iterator[StreamEvent]:
        indices = {request.id: index for index, request in enumerate(requests) if isinstance(request, Request)}
        running = [request for request in requests if isinstance(request, Request)]
        try:
            for each in running:
                self.loop.submit(each)
            for index, request in enumerate(requests):
                if isinstance(request, SpecdecError):
                    yield StreamEvent(index, generation=Generation.refused(request))
            texts = dict.fromkeys(indices, "")
            for output in self.loop.outputs(running):
                request = output.request
                texts[request.id] += "".join(piece.text for piece in output.pieces)
                yield StreamEvent(indices[request.id], output)
                if output.finish_reason is not None:
                    generation = Generation.of(request, texts[request.id])
                    yield StreamEvent(indices[request.id], generation=generation)
        finally:
            self.loop.leave(running)


def _make_drafters(drafter: Drafters, options: Mapping[str, Any] | None) -> list[Drafter]:
    listed = take("drafter", (drafter,) if isinstance(drafter, str | Drafter) else drafter, _DRAFTERS)
    options = take("drafter_options", options, _OPTIONS)
    if options and not (len(listed) == 1 and isinstance(listed[0], str)):
        raise ConfigError(f"Options {dict(options)} go with the name of one drafter; make the others with their own.")
    return [DRAFTERS.create(one, **(options or {})) if isinstance(one, str) else one for one in listed]


@contextmanager
def _progress_bar(total: int, show: bool | None) -> Iterator[Callable[[DecodingStats], None]]:
    """Yields the function to call when a prompt is done. The bar also shows how much of the prompts was cached."""
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                  disable=not (total > 16 if show is None else show)) as progress:  # fmt: skip
        task, told = progress.add_task("generating", total=total), DecodingStats()

        def advance(stats: DecodingStats) -> None:
            nonlocal told
            told += stats
            found = f", {told.prefix_hit_rate:.0%} of prompts cached, {told.saved_prefill_seconds:.1f} s saved"
            progress.update(task, advance=1, description=f"generating{found if told.cached_tokens else ''}")

        yield advance
