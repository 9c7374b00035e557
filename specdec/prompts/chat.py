"""A chat as a prompt: messages, and what the model's template may know besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers.utils import get_json_schema

from specdec.checks import flag, settle, shown, text
from specdec.errors import InvalidRequestError
from specdec.foreign import foreign
from specdec.prompts.plain import mapping_of, plain

Message = Mapping[str, Any]
"""`role` and `content`: a text, or parts of the form {"type": "text", "text": …}; and what else the template reads."""

_SAYS_SOMETHING = ("tool_calls", "reasoning_content", "reasoning", "thinking")
"""A message that has one of these needs no content."""
_OURS = ("messages", "tools", "add_generation_prompt")
_KINDS = {
    "template": text("the name of one of the tokenizer's templates, or a template").or_none(" for the tokenizer's own"),
    "continue_final_message": flag(),
    "add_generation_prompt": flag().or_none(" to add it unless the final message is continued"),
}


@dataclass(frozen=True)
class Chat:
    """A chat that the model's template turns into text.

    It is copied and checked when it is made; a plain list of messages is `Chat(messages)`.

    Args:
        messages: at least one. A message has a `role` and a `content`, which is a text or a list of text parts; one
            with tool calls or reasoning needs no content. Fields that are None count as left out.
        tools: JSON schemas, or functions with type hints and a docstring.
        template: one of the tokenizer's templates by its name, or a template; None takes the tokenizer's own.
        continue_final_message: the model goes on with the last message instead of answering it.
        add_generation_prompt: whether the text ends with the head of an answer; None: unless the last message goes on.
        template_kwargs: variables of the template, such as `enable_thinking`.

    Raises:
        InvalidRequestError: for a message or another field that cannot be used; it is named.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None
    template: str | None = None
    continue_final_message: bool = False
    add_generation_prompt: bool | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle(self, _KINDS, InvalidRequestError)
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequestError(
                "continue_final_message=True and add_generation_prompt=True exclude each other: the model goes on with "
                "the last message, or begins one. Leave one of them out."
            )
        object.__setattr__(self, "messages", _messages(self.messages))
        object.__setattr__(self, "tools", None if self.tools is None else _tools(self.tools))
        object.__setattr__(self, "template_kwargs", _variables(self.template_kwargs))

    @property
    def words(self) -> str:
        """What the messages say, one after the other."""
        contents = (message.get("content", "") for message in self.messages)
        return "\n".join(text if isinstance(text, str) else joined(text) for text in contents)

    @property
    def begins_an_answer(self) -> bool:
        """Whether the text ends with the head of an answer."""
        given = self.add_generation_prompt
        return not self.continue_final_message if given is None else given


def joined(parts: Sequence[Mapping[str, str]]) -> str:
    """Text parts as one text."""
    return "\n".join(part["text"] for part in parts)


def _messages(given: Any) -> tuple[dict[str, Any], ...]:
    listed = _listed(given, "messages", "a list of messages with role and content")
    if not listed:
        raise InvalidRequestError("A chat without messages cannot be answered. Give at least one.")
    return tuple(_message(message, f"Message {place}") for place, message in enumerate(listed))


def _message(given: Any, name: str) -> dict[str, Any]:
    if (fields := mapping_of(given)) is None:
        raise InvalidRequestError(f"{name} = {shown(given)} cannot work. Give a mapping with role and content.")
    message: dict[str, Any] = {key: value for key, value in plain(fields, name).items() if value is not None}
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidRequestError(f"{name} has role = {shown(role)}. Give a role such as 'user' or 'assistant'.")
    if "content" in message:
        _check_content(message["content"], name)
    elif not any(key in message for key in _SAYS_SOMETHING):
        raise InvalidRequestError(f"{name} has no content, but {', '.join(map(repr, message))}. Give it a text.")
    return message


def _check_content(content: Any, name: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list | tuple):
        raise InvalidRequestError(f"{name} has content = {shown(content)}. Give a text, or a list of text parts.")
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            what = f"of type {shown(kind)}" if isinstance(part, dict) else shown(part)
            raise InvalidRequestError(
                f"{name}, part {place}, is {what}. Models here read text alone: give {{'type': 'text', 'text': …}}."
            )
        if not isinstance(part.get("text"), str):
            raise InvalidRequestError(f"{name}, part {place}, has text = {shown(part.get('text'))}. Give a text.")


def _tools(given: Any) -> tuple[dict[str, Any], ...]:
    listed = _listed(given, "tools", "a list of JSON schemas or functions")
    return tuple(_tool(tool, f"Tool {place}") for place, tool in enumerate(listed))


def _tool(given: Any, name: str) -> dict[str, Any]:
    if (schema := mapping_of(given)) is None:
        if isinstance(given, type) or not callable(given):
            raise InvalidRequestError(f"{name} = {shown(given)} cannot work. Give a JSON schema or a function.")
        with foreign(
            InvalidRequestError,
            f"Cannot describe {name.lower()}, {shown(given)}",
            "Give it type hints and a docstring with its arguments, or give its JSON schema.",
        ):
            schema = get_json_schema(given)
    described: dict[str, Any] = plain(schema, name)
    return described


def _variables(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InvalidRequestError(f"template_kwargs = {shown(given)} cannot work. Give names with their values.")
    if taken := [name for name in _OURS if name in given]:
        raise InvalidRequestError(f"template_kwargs cannot set {taken[0]!r}. Give Chat(…, {taken[0]}=…).")
    return {str(name): plain(value, f"template_kwargs[{name!r}]") for name, value in given.items()}


def _listed(given: Any, name: str, wanted: str) -> list[Any]:
    if isinstance(given, str | bytes | bytearray) or not isinstance(given, Sequence):
        raise InvalidRequestError(f"{name} = {shown(given)} cannot work. Give {wanted}.")
    return list(given)
