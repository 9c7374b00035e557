"""Answers OpenAI's API over HTTP, until a signal comes (docs/serving.md).

specdec serve [MODEL] [host=127.0.0.1] [port=8000] [drafter=ngram] [replicas=2]
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import transformers
from omegaconf import DictConfig

from specdec.commands.application import application
from specdec.engine.goals import Goals
from specdec.models.sources import EMBEDDED_NAME
from specdec.serve.app import Service
from specdec.serve.replicas.cluster import Cluster
from specdec.serve.replicas.router import Router
from specdec.serve.server import Server
from specdec.serve.settings import KINDS, Settings
from specdec.study.plan import Plan, plan, values_of


def _serve(config: DictConfig) -> None:
    """Loads the target and answers until a signal comes."""
    _log_to_stderr()
    transformers.logging.disable_progress_bar()
    settings = _settings(config)
    if settings.replicas == 1:
        made = service(config)
        with made.generator:
            Server(made).serve_until_told()
        return
    job, make = served(config), partial(service, config)
    threads = max(1, torch.get_num_threads() // settings.replicas) if job.threads is None else None
    gpus = int(str(values_of(config)["device"]["device"]).startswith("cuda"))
    with Cluster(make, settings.replicas, threads, gpus, settings.drain_seconds) as replicas:
        Server(Router(replicas, settings)).serve_until_told()


def service(config: DictConfig, number: int = 0) -> Service:
    """Loads the target and sets an engine up.

    Args:
        config: of the command.
        number: of the engine; behind a router there are several.
    """
    job, settings = served(config), _settings(config)
    job.use_threads()
    if settings.replicas > 1:
        settings = replace(settings, api_key=None)  # the router asks for it
    name = values_of(config)["target"]["path"] or EMBEDDED_NAME
    return Service(job.generator(), name, settings, job.params, number)


def served(config: DictConfig) -> Plan:
    """What is served, with the goals."""
    job = plan(config)
    return replace(job, engine=replace(job.engine, goals=Goals(**values_of(config)["goals"])))


def _settings(config: DictConfig) -> Settings:
    values: dict[str, Any] = values_of(config)
    return Settings(**{name: values[name] for name in KINDS})


def _log_to_stderr() -> None:
    """A line a call and what uvicorn says of itself; no text of any prompt."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    for name in ("specdec", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)


def _check(config: DictConfig) -> None:
    served(config)
    _settings(config)


main = application("serve", _serve, _check, word="target.path")
