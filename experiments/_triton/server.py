"""The real tritonserver, out of the `nvidia-pytriton` wheel, as a process: no container, no GPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

import specdec
from experiments._environments import installed
from specdec.errors import ConfigError, SpecdecError
from specdec.testing.server import HOST, free_port

HOME = Path(".venv-triton")
REQUIREMENTS = (
    "--no-deps", "nvidia-pytriton==0.7.0", "tritonclient==2.73.0", "grpcio==1.85.3", "protobuf==6.33.6",
    "numpy==1.26.4", "ml-dtypes==0.5.4", "packaging==26.4", "python-rapidjson==1.25", "typing-extensions==4.16.0",
    "urllib3==2.8.0",
)  # fmt: skip
"""All that is needed of what these packages ask for, and nothing else: of the first we use the server alone. Its models
read their inputs wrong with numpy 2."""
STUB = "triton_python_backend_stub"
POLL = 0.1
"""Seconds between two looks."""
EXIT_SECONDS = 10
"""That what runs has to end, once the server is told to."""
NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"


class TritonServer:
    """A tritonserver that has loaded all models of a repository once this is made, and ends with the `with` block.

    Its models run in this version of Python, with the packages of `home` and behind them those that are installed here.
    They are loaded, replaced and unloaded by calls alone. It listens at 127.0.0.1 alone.

    Args:
        repository: folder of models.
        home: environment with the server; is made if it is not there.
        log: gets what it writes; None is a temporary file.
        seconds: that it may take to load all models.

    Raises:
        ConfigError: if it cannot be installed.
        SpecdecError: if it is not ready in time, or a model cannot be loaded; with what its log says.
    """

    def __init__(self, repository: Path, home: Path = HOME, log: Path | None = None, seconds: float = 300.0) -> None:
        home = home.absolute()
        self.python = installed(home, REQUIREMENTS) / "python"
        packages = home / "lib" / NAME / "site-packages"
        (packages / "ours.pth").write_text("\n".join(filter(None, sys.path)), encoding="utf-8")
        ports = {name: free_port() for name in ("http", "grpc", "metrics")}
        self.url, self.grpc = f"http://{HOST}:{ports['http']}", f"{HOST}:{ports['grpc']}"
        self.metrics_url = f"http://{HOST}:{ports['metrics']}/metrics"
        self._folder = tempfile.TemporaryDirectory(prefix="specdec-triton-")
        self.log = log or Path(self._folder.name) / "log"
        command = [*_command(packages / "pytriton" / "tritonserver"), f"--model-repository={repository.absolute()}"]
        for name, port in ports.items():
            command += [f"--{name}-port={port}", f"--{name}-address={HOST}"]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **_variables(home, packages)},
                cwd=Path(specdec.__file__).parents[1],  # models import this specdec, installed or not
                start_new_session=True,  # with the processes of its models: none outlives it
            )
        try:
            self._wait(time.monotonic() + seconds)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def load(self, model: str, config: Mapping[str, Any] | None = None) -> None:
        """Loads a model, or replaces it when the new one is ready; requests that run end with the old one.

        Args:
            model: its name.
            config: in place of that in the repository.

        Raises:
            SpecdecError: if it cannot be loaded. The old one stays.
        """
        body = {} if config is None else {"parameters": {"config": json.dumps(config)}}
        self._post(f"/v2/repository/models/{model}/load", body)

    def change(self, model: str, **settings: Any) -> None:
        """Replaces a model by one with other `settings`; as `load`.

        Args:
            model: one that is loaded.
            settings: those that change.
        """
        answer = httpx.get(f"{self.url}/v2/models/{model}/config")
        config = answer.raise_for_status().json()
        stored = config["parameters"]["settings"]
        stored["string_value"] = json.dumps({**json.loads(stored["string_value"]), **settings})
        self.load(model, config)

    def unload(self, model: str) -> None:
        """Takes a model away; requests that run end with it."""
        self._post(f"/v2/repository/models/{model}/unload", {})

    def metrics(self) -> dict[tuple[str, str], float]:
        """Figure and model → what the server counts of it; figures that differ in other labels are added up."""
        found = dict[tuple[str, str], float]()
        for line in httpx.get(self.metrics_url).text.splitlines():
            if model := re.match(r'(\w+)\{.*model="(\w+)".*\} (\S+)', line):
                name = model[1], model[2]
                found[name] = found.get(name, 0.0) + float(model[3])
        return found

    def close(self) -> None:
        """Ends the server: what runs has `EXIT_SECONDS`."""
        self.process.terminate()
        try:
            self.process.wait(2 * EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self._folder.cleanup()

    def _post(self, path: str, body: Mapping[str, Any]) -> None:
        answer = httpx.post(self.url + path, json=body, timeout=None)
        if answer.is_error:
            raise SpecdecError(f"{path}: {answer.text}")

    def _wait(self, until: float) -> None:
        """Until all models are there."""
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/v2/health/ready").is_success:
                    return
            if self.process.poll() is not None or time.monotonic() > until:
                log = self.log.read_text(encoding="utf-8", errors="replace")
                why = "\n".join(re.findall("^E.*failed to load.*$", log, re.MULTILINE)) or log[-2000:]
                raise SpecdecError(f"The server is not ready at {self.url}. Its log says: {why}")
            time.sleep(POLL)


def _command(bundle: Path) -> list[str]:
    """How the server of the wheel is started, but for models and addresses.

    Raises:
        ConfigError: if it cannot run models in this Python.
    """
    stub = bundle / "python_backend_stubs" / NAME.removeprefix("python") / STUB
    if not stub.is_file():
        raise ConfigError(f"This tritonserver has no backend for {NAME}. Use Python 3.10 to 3.12 on Linux.")
    if not (place := bundle / "backends" / "python" / STUB).is_file():
        shutil.copy(stub, place)
    return [
        str(bundle / "bin" / "tritonserver"),
        f"--backend-directory={bundle / 'backends'}",
        f"--cache-directory={bundle / 'caches'}",
        "--model-control-mode=explicit",
        "--load-model=*",
        f"--exit-timeout-secs={EXIT_SECONDS}",
    ]


def _variables(home: Path, packages: Path) -> dict[str, str]:
    """Where the server finds its libraries and this Python's. Its models run in the first python3 on the path;
    PYTHONPATH is not read."""
    libraries = [sysconfig.get_config_var("LIBDIR"), packages / "nvidia_pytriton.libs"]
    programs = [home / "bin", os.environ["PATH"]]
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PATH": os.pathsep.join(map(str, programs)),
    }
