"""A batch as it is handed in → requests. What is wrong with one prompt is that prompt's error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from specdec.checks import shown, take
from specdec.engine.intake import PARAMS
from specdec.engine.request import Request
from specdec.errors import ConfigError, InvalidRequestError, SpecdecError
from specdec.prompts.entry import Prompt, split
from specdec.sampling import SamplingParams

OnError = Literal["raise", "return"]


def make_requests(
    prompts: Prompt | Sequence[Prompt],
    params: SamplingParams | Sequence[SamplingParams] | None,
    on_error: OnError,
    encode: Callable[[Prompt], list[int]],
    make: Callable[[list[int], SamplingParams], Request],
    defaults: Mapping[str, Any],
) -> list[Request | SpecdecError]:
    """Checks every prompt before any is queued.

    Args:
        prompts: one or a batch.
        params: for all of them, or one each; None leaves all to the defaults.
        on_error: whether a prompt's error is raised, or stands in the prompt's place.
        encode: token ids of a prompt.
        make: a request of token ids.
        defaults: the model's own values for what params leave out.

    Returns:
        One entry per prompt, in order; of a prompt whose parameters have n > 1, n entries.

    Raises:
        InvalidRequestError: if there are not as many params as prompts.
        SpecdecError: the first prompt's error, if `on_error` is "raise".
    """
    if on_error not in ("raise", "return"):
        raise ConfigError(f"on_error = {shown(on_error)} cannot work. Give 'raise' or 'return'.")
    listed = split(prompts)
    requests: list[Request | SpecdecError] = []
    for index, (prompt, given) in enumerate(zip(listed, _one_each(params, len(listed)), strict=True)):
        try:
            own = take("params", given, PARAMS, InvalidRequestError).over(defaults)
            ids = encode(prompt)
            requests.extend([make(ids, one) for one in own.samples()])
        except SpecdecError as error:
            error.args = (f"Prompt {index}: {error}",)
            if on_error == "raise":
                raise
            requests.extend([error] * (given.n if isinstance(given, SamplingParams) else 1))
    return requests


def _one_each(params: Any, count: int) -> list[Any]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if isinstance(params, str | bytes) or not isinstance(params, Sequence):
        raise InvalidRequestError(f"params = {shown(params)} cannot work. Give SamplingParams, or a list of them.")
    if len(params) != count:
        raise InvalidRequestError(f"{count} prompts but {len(params)} sampling parameters. Give one, or one each.")
    return list(params)
