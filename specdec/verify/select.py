"""Which rule judges a request."""

from __future__ import annotations

from functools import cache

from specdec.errors import ConfigError
from specdec.registry import RULES
from specdec.sampling import SamplingParams
from specdec.verify.base import Rule
from specdec.verify.greedy import GreedyRule

AUTO = "auto"


def select_rule(rule: str | Rule, params: SamplingParams, deterministic_drafter: bool) -> Rule:
    """The rule for one request.

    At temperature 0 every lossless rule is the exact match. `auto` takes `gumbel` for deterministic drafters, where it
    accepts as often as rejection and gives the text of plain decoding with the same seed, and `token` otherwise.

    Args:
        rule: a name, "auto", or a rule of one's own.
        params: the request's sampling parameters.
        deterministic_drafter: whether the drafter's q is one-hot.

    Raises:
        ConfigError: for an unknown name, or for `greedy` at a temperature above 0.
    """
    if isinstance(rule, str):
        if rule == AUTO:
            rule = "greedy" if params.greedy else "gumbel" if deterministic_drafter else "token"
        rule = _shared(rule)
    if params.greedy and rule.lossless:
        return _shared("greedy")
    if isinstance(rule, GreedyRule) and not params.greedy:
        raise ConfigError(
            f"rule='greedy' would ignore temperature={params.temperature}. Use rule='auto', 'token' or 'gumbel', "
            "or temperature=0."
        )
    return rule


@cache
def _shared(name: str) -> Rule:
    """One instance per name: rules hold no state, and requests that share one are judged together."""
    rule: Rule = RULES.create(name)
    return rule
