"""A call's body → what is to be generated, or a refusal that names the field."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from specdec.checks import Kind, shown, take
from specdec.errors import InvalidRequestError
from specdec.prompts import Chat
from specdec.prompts.entry import Prompt
from specdec.sampling import SamplingParams
from specdec.sampling.params import Unset
from specdec.serve import fields
from specdec.serve.errors import ApiError
from specdec.serve.structure import grammar_of
from specdec.serve.tools import ToolForm, Tools, told, tools_of

LOG = logging.getLogger("specdec.serve")
COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` for completions; a chat's answer may fill the context."""
STREAM_OPTIONS = ("include_usage", "continuous_usage_stats")
MOST_BAD_WORDS = 1000


@dataclass(frozen=True)
class Call:
    """What a client wants.

    Args:
        kind: "chat" or "completion".
        model: the name it gave.
        prompts: to be continued; choices are numbered by prompt, then by text.
        params: for each of them; `n` texts each.
        plain: whether texts are encoded without the tokenizer's special tokens.
        echo: whether the prompt stands before the text.
        silent: whether nothing is generated, since the prompt alone is wanted.
        stream: whether the answer comes in pieces.
        usage: whether a stream ends with the counts of tokens.
        usage_always: whether each piece of it has them.
        token_ids: whether token ids are in the answer.
        names_ids: whether tokens are called by their ids.
        steps: whether the answer says who made which token.
        tools: that the model may call; None if there are none.
    """

    kind: Literal["chat", "completion"]
    model: str
    prompts: tuple[Prompt, ...]
    params: SamplingParams
    plain: bool = False
    echo: bool = False
    silent: bool = False
    stream: bool = False
    usage: bool = False
    usage_always: bool = False
    token_ids: bool = False
    names_ids: bool = False
    steps: bool = False
    tools: Tools | None = None


class Reader:
    """Reads bodies.

    Args:
        base: what a call that leaves a field out gets; what this leaves out too is for the model to say.
        defaults: the model's own word for those (`LoadedModel.defaults`).
        context: most tokens of a prompt and its text.
        drafters: names of the engine's drafters.
        refuse_unknown: whether a field of which nothing is known is refused.
        form: how the model calls tools.
    """

    def __init__(
        self,
        base: SamplingParams,
        defaults: Mapping[str, Any],
        context: int,
        drafters: tuple[str, ...],
        refuse_unknown: bool = True,
        form: ToolForm | None = None,
    ) -> None:
        self._base, self._context, self._drafters = base, context, drafters
        self._defaults = {"temperature": 1.0, **defaults}
        self._refuse_unknown, self._form = refuse_unknown, form or ToolForm()

    def chat(self, body: Mapping[str, Any]) -> Call:
        """Of /v1/chat/completions.

        Raises:
            ApiError: 400, for a field that cannot be honoured.
            SpecdecError: for messages or parameters that cannot be served.
        """
        given = self._fields(body, fields.CHAT)
        if "messages" not in given:
            raise ApiError(400, "messages is missing. Give a list of them.", "messages")
        if given.get("top_logprobs") and not given.get("logprobs"):
            raise ApiError(400, "top_logprobs goes with logprobs = true. Add it.", "top_logprobs")
        given["logprobs"] = given.pop("top_logprobs", 0) if given.get("logprobs") else None
        if (most := given.pop("max_completion_tokens", None)) is not None:
            given["max_tokens"] = most
        tools = tools_of(given, self._form)
        chat = Chat(
            told(given.pop("messages"), tools, self._form),
            tools=tools.listed if tools and self._form.native else None,
            continue_final_message=given.pop("continue_final_message", False),
            add_generation_prompt=given.pop("add_generation_prompt", None),
            template_kwargs=given.pop("chat_template_kwargs", {}),
        )
        return self._call("chat", (chat,), given, self._context, tools)

    def completion(self, body: Mapping[str, Any]) -> Call:
        """Of /v1/completions; raises as `chat`."""
        given = self._fields(body, fields.COMPLETION)
        if "prompt" not in given:
            raise ApiError(400, "prompt is missing. Give a text, token ids, or a list of such.", "prompt")
        prompts, echo = _prompts(given.pop("prompt")), given.pop("echo", False)
        silent = given.get("max_tokens") == 0
        if silent and not echo:
            raise ApiError(400, "max_tokens = 0 goes with echo = true. Give at least 1.", "max_tokens")
        if silent:
            given["max_tokens"] = 1
        if echo and given.get("prompt_logprobs") is None:
            given["prompt_logprobs"] = given.get("logprobs")
        call = self._call("completion", prompts, given, COMPLETION_TOKENS)
        return replace(call, echo=echo, silent=silent)

    def _fields(self, body: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
        """Those that the body sets, as they are kept."""
        for name in fields.REFUSED.keys() & body.keys():
            if (why := fields.refusal(name, body[name])) is not None:
                raise ApiError(400, why, name)
        if names := fields.unknown(body, kinds):
            if self._refuse_unknown:
                raise ApiError(400, f"{shown(names[0])} is no field that is known here. Leave it out.", names[0][:80])
            LOG.warning("ignored unknown fields: %s", shown(names))
        return {
            name: take(name, body[name], kind, InvalidRequestError)
            for name, kind in kinds.items()
            if body.get(name) is not None
        }

    def _call(
        self,
        kind: Literal["chat", "completion"],
        prompts: tuple[Prompt, ...],
        given: dict[str, Any],
        longest: int,
        tools: Tools | None = None,
    ) -> Call:
        stream = given.pop("stream", False)
        options = given.pop("stream_options", {})
        if options and not stream:
            raise ApiError(400, "stream_options goes with stream = true. Leave one out, or add it.", "stream_options")
        if unknown := options.keys() - set(STREAM_OPTIONS):
            raise ApiError(400, f"stream_options has no {shown(min(unknown))}. Leave it out.", "stream_options")
        usage, always = (options.get(name, False) for name in STREAM_OPTIONS)
        return Call(
            kind,
            given.pop("model", ""),
            prompts,
            plain=not given.pop("add_special_tokens", True),
            stream=stream,
            usage=usage,
            usage_always=always,
            token_ids=given.pop("return_token_ids", False),
            names_ids=given.pop("return_tokens_as_token_ids", False),
            steps=given.pop("return_steps", False),
            params=self._params(given, longest, tools),
            tools=tools,
        )

    def _params(self, given: dict[str, Any], longest: int, tools: Tools | None) -> SamplingParams:
        """What was given, over what holds where nothing was."""
        if given.get("top_k") == -1:
            given["top_k"] = 0
        if "logit_bias" in given:
            given["logit_bias"] = {_token(key): value for key, value in given["logit_bias"].items()}
        if "prediction" in given:
            given["prediction"] = _content(given["prediction"])
            given.setdefault("drafter", "prediction" if "prediction" in self._drafters else None)
        grammar = grammar_of(given)
        if grammar is not None and tools is not None:
            raise ApiError(400, "tools and another form of the text exclude each other. Give one of them.", "tools")
        if (form := tools.grammar() if tools is not None else grammar) is not None:
            given["grammar"] = form
        if len(given.get("bad_words", ())) > MOST_BAD_WORDS:
            raise ApiError(400, f"bad_words has more than {MOST_BAD_WORDS} entries. Give fewer.", "bad_words")
        if "max_tokens" not in given and isinstance(self._base.max_tokens, Unset):
            given["max_tokens"] = self._defaults.get("max_tokens", longest)
        return replace(self._base, **given).over(self._defaults)


def _prompts(given: Any) -> tuple[Prompt, ...]:
    """One or more, each a text or token ids."""
    if isinstance(given, str) or (isinstance(given, list) and given and all(type(one) is int for one in given)):
        return (given,)
    if isinstance(given, list) and given and all(isinstance(one, str | list) for one in given):
        return tuple(given)
    raise ApiError(400, f"prompt = {shown(given)} cannot work. Give a text, token ids, or a list of such.", "prompt")


def _token(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        raise ApiError(400, f"logit_bias has the key {shown(key)}. Give ids of tokens, as texts.", "logit_bias")
    return int(key)


def _content(prediction: Mapping[str, Any]) -> str:
    """The text that OpenAI's `prediction` holds: a text, or text parts."""
    content = prediction.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        parts = [part.get("text") for part in content]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else None
    if prediction.get("type", "content") != "content" or not isinstance(content, str) or not content:
        raise ApiError(400, 'prediction cannot be read. Give {"type": "content", "content": a text}.', "prediction")
    return content
