"""Sets up the acceptance dashboard of a wandb project: a workspace and a report.

python -m experiments.dashboard --entity ME --project specdec [--dry-run]

--dry-run prints both as JSON and needs no account; saving needs `wandb login`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from specdec.commands.application import exit_on_user_error
from specdec.errors import ConfigError
from specdec.tracking.wandb import has_credentials
from specdec.tracking.workspace import report, workspace


def main() -> None:
    """Prints, or saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--entity", required=True, help="user or team")
    parser.add_argument("--project", default="specdec")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    with exit_on_user_error():
        if not args.dry_run and not has_credentials():
            raise ConfigError("wandb has no API key here. Run `wandb login`, or add --dry-run.")
        for made in (workspace(args.entity, args.project), report(args.entity, args.project)):
            if args.dry_run:
                print(json.dumps(asdict(made), indent=1, default=str))
            else:
                print(made.save().url)


if __name__ == "__main__":
    main()
