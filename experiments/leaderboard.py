"""Every drafter by category of prompts, greedy and at temperature 1, at batch 1 and 8: τ, speedup, cost and memory.

python -m experiments.leaderboard [--output docs] [--choose suffix,recycling] [--policy select]
    [drafter=ngram,suffix] [data.path=FILE data.limit=26] [SETTING=… …]

It is `specdec study -m experiment=leaderboard` with these settings, and its table copied to OUTPUT/leaderboard.md; a
second call goes on where a first one was stopped. Without drafter=… it takes all that are registered; those that need
an option, such as a draft model, are left out, and the table says so. --choose adds a line: these together, among which
a policy chooses.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from specdec.commands.application import config_dir, exit_on_user_error
from specdec.measure.runs import load_runs
from specdec.places import write
from specdec.report.text import markdown
from specdec.study import preflight

TITLE = "Leaderboard of the drafters"
ABOUT = """Speedup over plain decoding of the same prompts by the same engine, in the same job. τ counts the
target's own token.

- Policy `always`: every step drafts as much as the drafter's options allow. So the table shows the drafter itself, also
  where its drafts do not pay, as at batch 8.
- Policy `product`: the draft tree is as large as pays by the measured cost of a pass, and may be empty. This is how to
  use a drafter.
- Policy `select`: chooses among several drafters in every step."""


def study_words(settings: list[str]) -> list[str]:
    """The words of `specdec` that run the study."""
    return ["study", "-m", "experiment=leaderboard", *settings]


def chooser_words(names: list[str], policy: str, settings: list[str]) -> list[str]:
    """The words that add a job for each condition, in which `policy` chooses among drafters."""
    first, *others = names
    kept = [word for word in settings if not word.startswith(("drafter=", "policy="))]
    return study_words([f"drafter={first}", f"beside=[{','.join(others)}]", f"policy={policy}", *kept])


def folder_of(settings: list[str]) -> Path:
    """Where the study's run folders are.

    Raises:
        ConfigError: for a setting that does not exist.
    """
    first, *_ = preflight.jobs(config_dir(), "study", study_words(settings)[1:])
    return Path(first.runs) / first.study


def main() -> None:
    """Runs, then writes; exits as the study did."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of leaderboard.md")
    parser.add_argument("--choose", default="", help="names of drafters that a policy chooses among, for one more line")
    parser.add_argument("--policy", default="select", help="the policy that chooses")
    args, settings = parser.parse_known_args()
    commands = [study_words(settings)]
    if args.choose:
        commands.append(chooser_words(args.choose.split(","), args.policy, settings))
    with exit_on_user_error():
        folder = folder_of(settings)
        codes = [
            subprocess.run([sys.executable, "-m", "specdec", *words], check=False).returncode for words in commands
        ]
        if folder.is_dir():
            write(args.output / "leaderboard.md", markdown(load_runs(folder), TITLE, ABOUT))
            print(args.output / "leaderboard.md")
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
