"""The fields of a call: which are honoured, which are refused and why, and which cannot change a token.

docs/serving.md has the same lists; a test compares them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from specdec.checks import Kind, either, flag, instance, mapping, number, several, shown, text, whole
from specdec.serve.structure import KINDS, OLD_NAMES

BIAS = 100
MOST_STOPS, MOST_TOPS = 16, 20
_NAME = "the name that /v1/models has"

PASSED = (
    "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "n",
    "stop_token_ids", "ignore_eos", "min_tokens", "include_stop_str_in_output", "skip_special_tokens",
    "allowed_token_ids", "bad_words", "prompt_logprobs", "cache_salt", "drafter", "rule", "num_draft_tokens",
)  # fmt: skip
"""Fields of `SamplingParams` that a call may set under the same name."""
ANYTHING = instance(object, "anything")
COMMON: dict[str, Kind] = {
    **dict.fromkeys(PASSED, ANYTHING),  # SamplingParams looks at them
    "model": text(_NAME, empty=True),
    "max_tokens": whole(),
    "top_k": whole(-1).but("an integer >= 1, or 0 or -1 to switch it off"),
    "stop": either(text(), several(text(), "", most=MOST_STOPS)).but(
        f"a non-empty text, or at most {MOST_STOPS} of them"
    ),
    "logit_bias": mapping(
        text(), number(lambda value: abs(value) <= BIAS, ""), f"token ids, as texts, mapped to numbers of ±{BIAS}"
    ),
    "stream": flag(),
    "stream_options": mapping(text(), flag(), "include_usage and continuous_usage_stats, each true or false"),
    "return_token_ids": flag(),
    "return_tokens_as_token_ids": flag(),
    "return_steps": flag(),
    "add_special_tokens": flag(),
    "prediction": mapping(text(), ANYTHING, '{"type": "content", "content": the text}'),
    "response_format": mapping(text(), ANYTHING, '{"type": "json_schema", "json_schema": {"schema": the schema}}'),
    "structured_outputs": mapping(text(), ANYTHING, f"one of {', '.join(KINDS)}"),
    **dict.fromkeys(OLD_NAMES, ANYTHING),  # Grammar looks at them
}
"""Field → what it may be; null is as if it were left out."""
CHAT: dict[str, Kind] = {
    **COMMON,
    "messages": ANYTHING,  # Chat looks at them
    "tools": ANYTHING,  # tools_of looks at them
    "tool_choice": ANYTHING,
    "max_completion_tokens": whole(1),
    "logprobs": flag(),
    "top_logprobs": whole(0, MOST_TOPS),
    "chat_template_kwargs": mapping(
        text(),
        either(flag(), number(lambda value: True, ""), text(empty=True)),
        "names with true, false, numbers or texts",
    ),
    "add_generation_prompt": flag(),
    "continue_final_message": flag(),
}  # fmt: skip
COMPLETION: dict[str, Kind] = {
    **COMMON,
    "prompt": ANYTHING,
    "logprobs": whole(0, MOST_TOPS),
    "echo": flag(),
}
REFUSED: dict[str, tuple[Collection[Any], str]] = {
    "guided_decoding_backend": ((), "grammars are followed in one way. Leave it out"),
    "guided_whitespace_pattern": (
        (),
        "separators are fixed. Give structured_outputs.disable_any_whitespace=false",
    ),
    "functions": ((), "that was its name before. Give tools"),
    "function_call": (("none",), "that was its name before. Give tool_choice"),
    "best_of": ((1,), "of several texts all are returned. Give n"),
    "suffix": (("",), "models here go on with a prompt. Leave it out"),
    "use_beam_search": ((False,), "there is no beam search. Leave it out"),
    "length_penalty": ((1,), "there is no beam search. Leave it out"),
    "early_stopping": ((False,), "there is no beam search. Leave it out"),
    "chat_template": ((), "templates of callers are not run. Leave it out, or send the prompt as text"),
    "documents": ((), "documents are not read. Put them into a message"),
    "truncate_prompt_tokens": ((), "prompts are not cut. Shorten the prompt"),
    "logprob_token_ids": ((), "log-probabilities are of the most probable tokens. Give top_logprobs"),
    "spaces_between_special_tokens": ((True,), "texts are decoded with such spaces as the tokenizer has. Leave it out"),
    "modalities": ((["text"],), "models here write text. Leave it out"),
    "audio": ((), "models here write text. Leave it out"),
    "web_search_options": ((), "nothing is searched. Leave it out"),
    "reasoning_effort": ((), "the effort is the model's own. Try chat_template_kwargs"),
    "verbosity": ((), "the length is the model's own. Give max_tokens"),
}
"""Field → values at which it does nothing, which are taken; and why others are not."""
IGNORED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "stream_interval", "priority", "request_id", "parallel_tool_calls",
)  # fmt: skip
"""They cannot change a token."""


def refusal(name: str, value: Any) -> str | None:
    """Why a known field with this value cannot be honoured; None if it does nothing."""
    neutral, why = REFUSED[name]
    if value is None or any(type(value) is type(one) and value == one for one in neutral):
        return None
    return f"{name} = {shown(value)} cannot be honoured: {why}."


def unknown(body: Mapping[str, Any], kinds: Mapping[str, Kind]) -> list[str]:
    """Fields of which nothing is known here."""
    return [name for name in body if name not in kinds and name not in REFUSED and name not in IGNORED]
