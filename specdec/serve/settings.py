"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.checks import flag, number, settle, text, whole

KINDS = {
    "host": text(),
    "port": whole(0, 65535),
    "name": text().or_none(" for the target's own"),
    "api_key": text().or_none(" to let everybody in"),
    "max_waiting": whole(0, 100_000),
    "max_choices": whole(1, 1024),
    "max_body_bytes": whole(1024, 2**30),
    "max_unread": whole(1, 2**20),
    "drain_seconds": number(lambda value: 0 < value <= 86_400, "seconds, above 0 and at most a day"),
    "refuse_unknown": flag(),
    "dashboard": flag(),
    "replicas": whole(1, 64),
}
"""What each setting may be."""


@dataclass(frozen=True)
class Settings:
    """Where a server listens, and what it takes.

    Args:
        host: address to listen at; 127.0.0.1 is reached from this machine alone.
        port: to listen at; 0 takes a free one.
        name: of the model, for clients; None takes the target's own.
        api_key: what clients must send as `Authorization: Bearer KEY`, but for /, /health, /ping; None asks for none.
        max_waiting: texts that may wait for a place in the engine; more are refused with 429.
        max_choices: most texts of one call: its prompts times n.
        max_body_bytes: most bytes of a call's body.
        max_unread: outputs of a stream that its client has not read; with more it is aborted.
        drain_seconds: after SIGTERM, how long what runs may take to end.
        refuse_unknown: whether a field that the server does not know is refused, or ignored with a warning in the log.
        dashboard: whether `/` is a page that shows what the server does, and sends it prompts.
        replicas: engines; more than one are processes of their own (Ray Serve), and all limits hold for each.

    Raises:
        ConfigError: if a value is out of range; names it and the remedy.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    api_key: str | None = None
    max_waiting: int = 256
    max_choices: int = 64
    max_body_bytes: int = 4 << 20
    max_unread: int = 1024
    drain_seconds: float = 30.0
    refuse_unknown: bool = True
    dashboard: bool = True
    replicas: int = 1

    def __post_init__(self) -> None:
        settle(self, KINDS)
