"""A chat → the text of the model's template, as transformers' `apply_chat_template` renders it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from specdec.checks import shown
from specdec.errors import InvalidRequestError
from specdec.foreign import foreign
from specdec.prompts import templates
from specdec.prompts.chat import Chat, joined
from specdec.prompts.plain import plain

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which models' reasoning is handed in; templates read the first or the second."""
MARK = "CONTINUE_FINAL_MESSAGE_TAG "
"""Behind the message that goes on; what the template puts after it is cut off. With the blank, trimming shows."""
REMEDY = "Change the messages, or give the prompt as text or with another template: Chat(…, template=…)."


def text_of(chat: Chat, tokenizer: Any) -> str:
    """What the model reads. Safe in any thread; a template runs within limits (`templates.Limits`).

    Args:
        chat: of messages; content that is a list of parts is handed to a template that takes it, and else joined by
            newlines.
        tokenizer: with `chat_template`: a template, or several by name.

    Raises:
        InvalidRequestError: if there is no template, or if it refuses the chat, is wrong, or takes too much.
    """
    template = _template(chat, tokenizer)
    _check_used(chat, template)
    special = plain(dict(getattr(tokenizer, "special_tokens_map", {})), "special_tokens_map")
    messages = _with_reasoning(chat.messages)
    if any(not isinstance(message.get("content", ""), str) for message in messages):
        messages = messages if _takes_parts(template, special) else _joined(messages)
    last = _continued(messages, template) if chat.continue_final_message else None
    variables = {"documents": None, **special, **chat.template_kwargs, "messages": messages}
    variables["tools"] = None if chat.tools is None else list(chat.tools)
    with _template_errors():
        text = templates.render(template, {**variables, "add_generation_prompt": chat.begins_an_answer})
    return text if last is None else _cut(text, last)


def _template_errors() -> AbstractContextManager[None]:
    return foreign(InvalidRequestError, "Cannot apply the chat template", REMEDY)


def _template(chat: Chat, tokenizer: Any) -> str:
    own = getattr(tokenizer, "chat_template", None)
    named = own if isinstance(own, Mapping) else {}
    if chat.template is not None:
        found = named.get(chat.template, chat.template if "{" in chat.template else None)
    elif named:
        found = named.get("tool_use") if chat.tools is not None and "tool_use" in named else named.get("default")
    else:
        found = own
    if isinstance(found, str) and found:
        return found
    if found:
        raise InvalidRequestError(
            f"The tokenizer's chat_template = {shown(found)} is not a text. Send text instead of a chat."
        )
    names = ", ".join(map(repr, named)) or "none"
    if chat.template is not None:
        raise InvalidRequestError(f"There is no chat template {shown(chat.template)}. The tokenizer's names: {names}.")
    if named:
        raise InvalidRequestError(
            f"The tokenizer has several chat templates. Choose one of {names}: Chat(…, template=…)."
        )
    raise InvalidRequestError(
        "Chat messages need a chat template, and this tokenizer has none. Send text, or give Chat(…, template=…)."
    )


def _check_used(chat: Chat, template: str) -> None:
    """Variables that no template reads would be lost without a word."""
    given = [*chat.template_kwargs, *(["tools"] if chat.tools is not None else [])]
    if not given:
        return
    with _template_errors():
        read = templates.names(template)
    for name in given:
        if name not in read:
            raise InvalidRequestError(
                f"The chat template does not read {name!r}, so it would do nothing. It reads {', '.join(sorted(read))}."
            )


def _with_reasoning(messages: Any) -> list[dict[str, Any]]:
    """Copies, in which reasoning has the names that templates read."""
    copies = []
    for message in messages:
        found = next((message[name] for name in REASONING if name in message), None)
        if found is None:
            copies.append(dict(message))
        else:
            copies.append({"thinking": found, **message, "reasoning_content": found})
    return copies


def _takes_parts(template: str, special: Mapping[str, str]) -> bool:
    """Whether it renders a message of one text part as it renders that text."""
    try:
        return _renders_parts(template, tuple(special.items()))
    except templates.TemplateError:
        return False


@lru_cache(maxsize=64)
def _renders_parts(template: str, special: tuple[tuple[str, str], ...]) -> bool:
    contents = "Hello.", [{"type": "text", "text": "Hello."}]
    chats = ([{"role": "user", "content": content}] for content in contents)
    known = {**dict(special), "tools": None, "documents": None, "add_generation_prompt": True}
    as_text, as_part = (templates.render(template, {**known, "messages": chat}) for chat in chats)
    return as_text == as_part


def _joined(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        message if isinstance(message.get("content", ""), str) else {**message, "content": joined(message["content"])}
        for message in messages
    ]


def _continued(messages: list[dict[str, Any]], template: str) -> str:
    """Marks the end of the last message in place, and returns its text."""
    last = messages[-1]
    content = last.get("content")
    if content in (None, [], ()) or "content" not in template:
        raise InvalidRequestError(
            f"The last message has content = {shown(content)}, which cannot be continued. Give the text that goes on."
        )
    if isinstance(content, str):
        last["content"] = content + MARK
        return content
    text: str = content[-1]["text"]
    last["content"] = [*content[:-1], {**content[-1], "text": text + MARK}]
    return text


def _cut(rendered: str, last: str) -> str:
    place = rendered.rfind(MARK.strip())
    if place < 0 or last.strip() not in rendered:
        raise InvalidRequestError(
            f"The chat template leaves out the last message, {shown(last)}, or parts of it, so it cannot be continued. "
            "Give the prompt as text."
        )
    kept = rendered[:place]
    return kept if rendered.startswith(MARK, place) else kept.rstrip()
