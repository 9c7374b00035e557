"""Replicas as deployments of Ray Serve: each an engine in a process of its own, which Ray starts anew should it die."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import torch
from starlette.types import Message

from specdec.errors import ConfigError
from specdec.serve.app import Service
from specdec.serve.replicas.relay import answered
from specdec.serve.replicas.router import Lost

MOST_CALLS = 10_000
"""That one replica answers at once. What may wait in its engine has its own limit, with an answer that clients know."""
HEALTH_SECONDS = 5.0
"""Between two looks at a replica."""


class Engine:
    """What runs in a replica's process.

    Args:
        make: a service over a new engine, for a replica's number.
        number: of this one.
        threads: that torch may use; None leaves it to `make`.
    """

    def __init__(self, make: Callable[[int], Service], number: int, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._service = make(number)

    async def answer(self, scope: Mapping[str, Any], body: bytes) -> AsyncGenerator[Message, None]:
        """See `specdec.serve.replicas.relay.answered`."""
        async for message in answered(self._service.app, scope, body):
            yield message

    async def there(self) -> int:
        """The id of its process."""
        return os.getpid()

    def check_health(self) -> None:
        """Ray asks now and then, and starts another process if it raises."""
        if self._service.thread.broken is not None:
            raise self._service.thread.broken


class RayReplica:
    """One of them, from outside.

    Args:
        handle: of its deployment.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def answer(self, scope: Mapping[str, Any], body: bytes) -> AsyncGenerator[Message, None]:
        """See `specdec.serve.replicas.router.Replica`."""
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import RayServeException

        messages = self._handle.options(stream=True).answer.remote(scope, body)
        try:
            async for message in messages:
                yield message
        except (RayActorError, RayServeException) as error:
            raise Lost(f"{type(error).__name__}: {error}") from error
        finally:
            messages.cancel()

    async def back(self) -> None:
        """See `Replica`. Ray keeps the question until there is a process again."""
        with suppress(Exception):
            await self._handle.there.remote()

    def close(self) -> None:
        """Nothing: they end together."""


class Cluster:
    """Replicas on this machine, under Ray Serve. A context, at whose end they and Ray's own processes are gone.

    Args:
        make: a service over a new engine, for a replica's number; it is sent to other processes.
        count: of replicas.
        threads: of torch in each; None leaves it to `make`.
        gpus: that each needs.
        drain_seconds: what runs may take to end.

    Raises:
        ConfigError: if Ray Serve is not installed.
    """

    def __init__(
        self, make: Callable[[int], Service], count: int, threads: int | None, gpus: int, drain_seconds: float
    ) -> None:
        if any(find_spec(package) is None for package in ("ray", "grpc_reflection")):
            raise ConfigError("replicas needs Ray Serve. Install it: pip install 'specdec-lab[ray]', or leave it out.")
        self._make, self._count, self._threads, self._gpus = make, count, threads, gpus
        self._drain_seconds = drain_seconds

    def __enter__(self) -> list[RayReplica]:
        """Starts them, all at once, and waits until they answer."""
        import ray
        from ray import serve

        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 would leave an engine what others leave over
        ray.init(num_cpus=max(os.cpu_count() or 1, self._count), include_dashboard=False, log_to_driver=True)
        serve.start(proxy_location="Disabled")
        deployment: Any = serve.deployment(Engine)
        targets = [
            serve.RunTarget(
                deployment.options(
                    name=f"engine-{number}",
                    max_ongoing_requests=MOST_CALLS,
                    graceful_shutdown_timeout_s=self._drain_seconds,
                    health_check_period_s=HEALTH_SECONDS,
                    ray_actor_options={"num_cpus": 1, "num_gpus": self._gpus},
                ).bind(self._make, number, self._threads),
                name=f"replica-{number}",
                route_prefix=None,
            )
            for number in range(self._count)
        ]
        return [RayReplica(handle) for handle in serve.run_many(targets)]

    def __exit__(self, *error: object) -> None:
        """Ends all of them."""
        import ray
        from ray import serve

        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
