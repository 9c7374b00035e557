"""Tools of a chat: what the model is told of them, the grammar of a call, and the call as it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specdec.checks import shown
from specdec.prompts import templates
from specdec.prompts.plain import plain
from specdec.sampling import Grammar
from specdec.sampling.sources import SEPARATORS
from specdec.serve.errors import ApiError

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MOST_TOOLS = 128
INTRODUCTION = (
    "You can call one of these functions. To do so, answer with nothing but a JSON object of its name and its "
    'arguments: {"name": …, "arguments": {…}}. The functions, in JSON:\n'
)
"""What a model is told whose template does not read tools."""


@dataclass(frozen=True)
class ToolForm:
    """How a model writes a call: an object of `name` and arguments, between two marks.

    Args:
        native: whether its chat template reads tools, and calls of earlier messages.
        opening, closing: the marks.
        key: of the arguments.
    """

    native: bool = False
    opening: str = ""
    closing: str = ""
    key: str = "arguments"

    @classmethod
    def of(cls, tokenizer: Any) -> ToolForm:
        """The form that the chat template asks for: marks of Hermes and Qwen, or a bare object, whose arguments are
        called `parameters` by Llama 3."""
        own = getattr(tokenizer, "chat_template", None)
        found = [one for one in (own.values() if isinstance(own, Mapping) else [own]) if isinstance(one, str)]
        text = "".join(one for one in found if "tools" in templates.names(one))
        if "<tool_call>" in text:
            return cls(True, "<tool_call>\n", "\n</tool_call>")
        return cls(bool(text), key="parameters" if '"parameters": dictionary' in text else "arguments")


@dataclass(frozen=True)
class Tools:
    """What a call may use.

    Args:
        listed: as the client gave them.
        callable: names of those that may be called, with the schemas of their arguments.
        must: whether one is called in any case.
        form: of a call.
    """

    listed: tuple[Mapping[str, Any], ...]
    callable: Mapping[str, Mapping[str, Any]]
    must: bool
    form: ToolForm

    def opening_of(self, name: str) -> str:
        """What stands before the arguments of a call."""
        return f'{self.form.opening}{{"name": {json.dumps(name)}, "{self.form.key}": '

    @property
    def closing(self) -> str:
        """What stands behind them."""
        return "}" + self.form.closing

    def grammar(self) -> Grammar:
        """One call; or, if none must be made, any text that does not begin as a call does."""
        rules, calls = list[str](), list[str]()
        for place, (name, schema) in enumerate(self.callable.items()):
            written = json.dumps({**schema, "x-guidance": SEPARATORS})
            calls.append(f"{json.dumps(self.opening_of(name))} arguments_{place} {json.dumps(self.closing)}")
            rules.append(f"arguments_{place}: %json {written}")
        if not self.must:
            calls.append("TEXT?")
            rules.append(f"TEXT: /[^{re.escape(self.first)}](.|\\n)*/")
        return Grammar.lark("\n".join([f"start: {' | '.join(calls)}", *rules]))

    @property
    def first(self) -> str:
        """The character with which a call begins, and no other text."""
        return (self.form.opening or "{")[0]


def tools_of(given: dict[str, Any], form: ToolForm) -> Tools | None:
    """Takes the fields about tools out of those that a call sets; None if none may be called.

    Raises:
        ApiError: 400, if they cannot be understood.
    """
    listed, choice = given.pop("tools", None), given.pop("tool_choice", None)
    if listed is None:
        if choice not in (None, "none"):
            raise ApiError(400, f"tool_choice = {shown(choice)} goes with tools. Add them.", "tool_choice")
        return None
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_TOOLS:
        raise ApiError(400, f"tools = {shown(listed)} cannot work. Give a list of 1 to {MOST_TOOLS}.", "tools")
    schemas = dict(_schema(tool, f"Tool {place}") for place, tool in enumerate(plain(listed, "tools")))
    if choice == "none":
        return None
    if (name := _named(choice)) is None:
        return Tools(tuple(listed), schemas, choice == "required", form)
    if name not in schemas:
        raise ApiError(400, f"tool_choice names {shown(name)}. Give one of {', '.join(schemas)}.", "tool_choice")
    return Tools(tuple(listed), {name: schemas[name]}, True, form)


def _named(choice: Any) -> str | None:
    """The one function that must be called; None if there is a choice."""
    if choice in (None, "auto", "required"):
        return None
    function = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        wanted = "'none', 'auto', 'required', or {'type': 'function', 'function': {'name': …}}"
        raise ApiError(400, f"tool_choice = {shown(choice)} cannot work. Give {wanted}.", "tool_choice")
    return name


def _schema(tool: Any, name: str) -> tuple[str, Mapping[str, Any]]:
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
    if not isinstance(function, Mapping):
        wanted = "{'type': 'function', 'function': {'name': …, 'parameters': {…}}}"
        raise ApiError(400, f"{name} = {shown(tool)} cannot work. Give {wanted}.", "tools")
    called, schema = function.get("name"), function.get("parameters")
    if not isinstance(called, str) or not NAME.fullmatch(called):
        raise ApiError(400, f"{name} has name = {shown(called)}. Give 1 to 64 of A-Z, a-z, 0-9, _, . and -.", "tools")
    if schema is None:
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(schema, Mapping):
        raise ApiError(400, f"{name} has parameters = {shown(schema)}. Give a JSON schema.", "tools")
    return called, schema


def told(messages: Any, tools: Tools | None, form: ToolForm) -> Any:
    """Messages as the model's template can read them: calls of earlier messages, their results, and tools that the
    template itself does not read."""
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        return messages  # Chat says what is wrong with them
    read = [_with_objects(one) if form.native else _in_words(one, form) for one in messages]
    if tools is None or form.native:
        return read
    introduction = INTRODUCTION + json.dumps([one["function"] for one in tools.listed], ensure_ascii=False)
    if read and read[0].get("role") == "system" and isinstance(read[0].get("content"), str):
        return [{**read[0], "content": f"{read[0]['content']}\n\n{introduction}"}, *read[1:]]
    return [{"role": "system", "content": introduction}, *read]


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """Arguments are text in messages, but templates write them out as JSON."""
    return {**message, "tool_calls": [_read(one) for one in calls]} if (calls := _calls(message)) else message


def _in_words(message: dict[str, Any], form: ToolForm) -> dict[str, Any]:
    """Calls and their results as plain text."""
    if message.get("role") == "tool":
        return {"role": "user", "content": message.get("content", "")}
    if not (calls := _calls(message)):
        return message
    written = [json.dumps(_read(one)["function"], ensure_ascii=False) for one in calls]
    return {"role": message.get("role"), "content": "\n".join([message.get("content") or "", *written]).lstrip("\n")}


def _calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls of a message.

    Raises:
        ApiError: 400, if they are none.
    """
    calls = message.get("tool_calls") or []
    if isinstance(calls, list) and all(
        isinstance(one, dict) and isinstance(one.get("function"), dict) for one in calls
    ):
        return calls
    wanted = "a list of {'type': 'function', 'function': {'name': …, 'arguments': …}}"
    raise ApiError(400, f"tool_calls = {shown(calls)} cannot work. Give {wanted}.", "messages")


def _read(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"].get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        return {**call, "function": {**call["function"], "arguments": json.loads(arguments)}}
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The arguments of a call are no JSON: {shown(arguments)}.", "messages") from error


class CallReader:
    """A text as it comes, taken apart into content and a call.

    Args:
        tools: whose grammar the text keeps to.
        id: of the call.
    """

    def __init__(self, tools: Tools, id: str) -> None:
        self._tools, self._id = tools, id
        self._text, self._name, self._told = "", "", 0
        self.complete = False
        """Whether a whole call was read."""

    def read(self, text: str, last: bool) -> tuple[str, list[dict[str, Any]]]:
        """More text → content, and what is new of calls, as OpenAI's streams have it.

        Args:
            text: what came.
            last: whether no more will.
        """
        self._text += text
        if self._text and not self._text.startswith(self._tools.first):
            return text, []
        new = not self._name and self._begins()
        if not self._name:
            return (self._text if last else ""), []
        arguments = self._arguments(last)
        piece, self._told = arguments[self._told :], len(arguments)
        if new:
            function = {"name": self._name, "arguments": piece}
            return "", [{"index": 0, "id": self._id, "type": "function", "function": function}]
        return "", [{"index": 0, "function": {"arguments": piece}}] if piece else []

    def _begins(self) -> bool:
        """Whether it is known now what is called."""
        for name in self._tools.callable:
            if self._text.startswith(self._tools.opening_of(name)):
                self._name = name
        return bool(self._name)

    def _arguments(self, last: bool) -> str:
        """As far as they are certain: what may be the closing mark is held back."""
        text, closing = self._text[len(self._tools.opening_of(self._name)) :], self._tools.closing
        if not last:
            return text[: max(len(text) - len(closing), self._told)]
        self.complete = text.endswith(closing)
        return text.removesuffix(closing)
