"""An HTTP server that speaks OpenAI's API, over one engine."""

from specdec.serve.settings import Settings

__all__ = ["Settings"]
