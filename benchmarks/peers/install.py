"""Installs the peers, each into an environment of its own.

python -m benchmarks.peers.install [peer ...]

What is installed already is left alone until its pins change. llama.cpp and its server are compiled for this machine's
processor, which takes minutes. The lists of pins are complete and nothing else is installed: what an engine merely
declares, such as torchvision, would not run beside the CPU's torch. pip's own settings apply; for the CPU's torch on
Linux set `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.peers.contenders import HOME, PEERS, python_of
from benchmarks.peers.worker import last_line

REQUIREMENTS = Path(__file__).parent / "requirements"
BUILD_ENVIRONMENT = {
    "CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON -DLLAMA_TOOLS_INSTALL=ON "
    "-DLLAMA_USE_PREBUILT_UI=OFF "  # llama-server without its page, which it would download
    "-DLLAVA_BUILD=OFF",  # the tools bring it
    "CMAKE_BUILD_PARALLEL_LEVEL": str(len(os.sched_getaffinity(0))),
}


def install(peer: str, requirements: Path | None = None) -> str | None:
    """Makes the environment unless it is there with these very pins.

    Returns:
        Why it failed, or None.
    """
    pins = requirements or REQUIREMENTS / f"{peer}.txt"
    stamp = HOME / peer / ".installed"
    wanted = pins.read_text(encoding="utf-8")
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return None
    print(f"Installing {peer} into {stamp.parent} …", flush=True)
    log = HOME / "logs" / f"install-{peer}.log"
    pip = [str(python_of(peer)), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(pins)]
    for command in ([sys.executable, "-m", "venv", "--clear", str(stamp.parent)], pip):
        if reason := run_logged(command, log):
            return f"installing failed: {reason}"
    stamp.write_text(wanted, encoding="utf-8")
    return None


def run_logged(command: list[str], log: Path) -> str | None:
    """Runs a command with its output in a file.

    Returns:
        Why it failed (the last line that speaks of an error, or the last line), or None.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        status = subprocess.run(command, stdout=output, stderr=output, env=os.environ | BUILD_ENVIRONMENT).returncode
    if status == 0:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if line.lower().startswith("error")]
    return errors[-1] if errors else last_line(log)


def install_all(peers: Iterable[str]) -> dict[str, str]:
    """Installs one after the other; one that fails stops no other.

    Returns:
        Peer → why it failed.
    """
    reasons = {peer: install(peer) for peer in peers}
    return {peer: reason for peer, reason in reasons.items() if reason is not None}


def main() -> None:
    """Installs the peers that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("peers", nargs="*", help=f"any of {', '.join(PEERS)}; all of them if left out")
    peers = parser.parse_args().peers or PEERS
    if unknown := set(peers) - set(PEERS):
        parser.error(f"There is no peer {min(unknown)!r}. Valid names: {', '.join(PEERS)}.")
    failed = install_all(peers)
    for peer in peers:
        print(f"{peer}: {failed.get(peer, 'installed')}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
