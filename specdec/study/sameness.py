"""Jobs that compute the same thing under several names: each such thing is run once."""

from __future__ import annotations

from omegaconf import DictConfig

from specdec.drafters.none import NoDrafter
from specdec.study.plan import Plan

AUTOMATIC = {"_target_": "specdec.verify.select.automatic"}
ALWAYS = {"_target_": "specdec.policy.always.AlwaysPolicy"}


def simplest(config: DictConfig, job: Plan) -> str:
    """Gives a job the plainest settings under which it does the same.

    Args:
        config: of the job; it is changed.
        job: what it stands for.

    Returns:
        Why they are the same, a sentence; "" if nothing was changed.
    """
    if not job.judge.lossless:
        return ""
    plainest, reason = {}, ""
    if drafts_nothing(job):
        plainest = {"rule": AUTOMATIC, "policy": ALWAYS}
        reason = "Plain decoding has no draft for a rule to judge or a policy to choose."
    elif job.params.greedy:
        plainest = {"rule": AUTOMATIC}
        reason = "At temperature 0 every lossless rule takes the likeliest token."
    changed = [group for group, part in plainest.items() if config[group] != part]
    for group in changed:
        config[group] = plainest[group]
    return reason if changed else ""


def drafts_nothing(job: Plan) -> bool:
    """Whether a job decodes plainly, so that it is its own baseline."""
    return all(isinstance(drafter, NoDrafter) for drafter in job.drafters)
