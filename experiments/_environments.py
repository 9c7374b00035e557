"""Other people's software, each in an environment of its own, out of whose way ours stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from specdec.errors import ConfigError


def installed(folder: Path, requirements: Sequence[str]) -> Path:
    """Folder of the programs of an environment, which is made unless it is there with these requirements.

    Args:
        folder: of the environment.
        requirements: for pip, and its options.

    Raises:
        ConfigError: if pip cannot install them; with pip's last line.
    """
    stamp, wanted = folder / ".installed", "\n".join(requirements)
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted):
        print(f"Installing into {folder} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", *requirements]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.splitlines() or [""])[-1]
            raise ConfigError(f"{' '.join(requirements)} cannot be installed: {last}")
        stamp.write_text(wanted, encoding="utf-8")
    return folder / "bin"
