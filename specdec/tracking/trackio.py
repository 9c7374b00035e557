"""trackio: a tracker of the local machine, with wandb's calls and no account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specdec.errors import ConfigError
from specdec.tracking.base import Row, Tracker, figures
from specdec.tracking.wandb import PROMPT_SCALARS
from specdec.typed import TypedName


class TrackioTracker(Tracker):
    """One trackio run a job: steps, prompts, and the figures at the end. `trackio show` opens its page; `TRACKIO_DIR`
    says where its databases are.

    Args:
        project: as trackio has it.

    Raises:
        ConfigError: if the package is not installed.
    """

    def __init__(self, project: TypedName = "specdec") -> None:
        try:
            import trackio
        except ImportError as error:
            raise ConfigError("trackio is not installed. Run `pip install 'specdec-lab[trackio]'`.") from error
        self._trackio: Any = trackio
        self._project = project

    def start(self, name: str, study: str, config: Row, environment: Row, folder: Path) -> None:
        """Opens the run."""
        self._trackio.init(
            project=self._project,
            name=name,
            group=study,
            config={"study": study, "config": dict(config)},
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,  # threads that would run beside the measurement
        )

    def step(self, values: Mapping[str, float]) -> None:
        """Its values."""
        self._trackio.log({f"step/{key}": value for key, value in values.items()})

    def prompt(self, row: Row) -> None:
        """Its numbers."""
        self._trackio.log({f"prompt/{key}": row[key] for key in PROMPT_SCALARS if row[key] is not None})

    def point(self, values: Mapping[str, float]) -> None:
        """Its values."""
        self._trackio.log({f"train/{key}": value for key, value in values.items()})

    def close(self) -> None:
        """Ends the run."""
        self._trackio.finish()

    def finish(self, summary: Row, rows: Sequence[Row], steps: Sequence[Row], folder: Path) -> None:
        """The figures, as the run's last line."""
        self._trackio.log({f"summary/{key}": value for key, value in figures(summary["metrics"]).items()})
        self._trackio.finish()

    def fail(self, error: str) -> None:
        """Ends the run."""
        self._trackio.log({"error": error})
        self._trackio.finish()
