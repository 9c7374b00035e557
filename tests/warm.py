"""A Python that has imported the package, and runs modules in copies of itself: what takes longest is done once."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAM = """
import json, os, runpy, signal, sys
import specdec.commands.generate, specdec.commands.report, specdec.commands.study

for line in sys.stdin:
    words, out, err = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
signal.alarm(600)
for name, stream in ((os.devnull, 0), (out, 1), (err, 2)):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), stream)
sys.stdin = open(0)
sys.path.insert(0, os.getcwd())
sys.argv = words[2:]
runpy.run_module(words[2], run_name="__main__", alter_sys=True)
"""


class Warm:
    """Runs modules as `python -m` would, without the time that their imports take. To be used in a `with`.

    Args:
        python: with the package.
        cwd, env: of the commands.
    """

    def __init__(self, python: Path, cwd: Path, env: Mapping[str, str]) -> None:
        self._cwd = cwd
        self._process = subprocess.Popen(
            [python, "-c", PROGRAM], cwd=cwd, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """What becomes of `python -m …`."""
        words = shlex.split(command)
        out, err = (self._cwd.parent / f"{self._cwd.name}.{name}" for name in ("out", "err"))
        for path in (out, err):
            path.unlink(missing_ok=True)
        pipes: Any = self._process
        pipes.stdin.write(json.dumps([words, str(out), str(err)]) + "\n")
        pipes.stdin.flush()
        code = int(pipes.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(path.read_text(encoding="utf-8") for path in (out, err)))
