"""The app: which path is answered by what."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from specdec import __version__
from specdec.generator import SpeculativeGenerator
from specdec.sampling import SamplingParams
from specdec.serve import fields
from specdec.serve.answering import LEFT, Answering
from specdec.serve.calls import Reader
from specdec.serve.dashboard import dashboard
from specdec.serve.errors import ApiError
from specdec.serve.guard import Guard
from specdec.serve.http import EventStream, Json, body_of, failed, unless_left
from specdec.serve.meters import Meters
from specdec.serve.readings import Desk
from specdec.serve.settings import Settings
from specdec.serve.tokens import Tokens
from specdec.serve.tools import ToolForm
from specdec.serve.worker import EngineThread


class Service:
    """An engine that answers HTTP; `app` is what a server runs.

    Args:
        generator: target, tokenizer and engine; nobody else runs its steps meanwhile.
        name: of the model, for clients.
        settings: what is taken.
        base: what calls get that leave a field out.
        number: of the engine, among those that one server has.
    """

    def __init__(
        self,
        generator: SpeculativeGenerator,
        name: str,
        settings: Settings | None = None,
        base: SamplingParams | None = None,
        number: int = 0,
    ) -> None:
        self.generator = generator
        self.settings, self.name = settings or Settings(), settings.name if settings and settings.name else name
        engine = generator.engine
        self.context = engine.model.max_context
        self.thread = EngineThread(generator.loop)
        self.meters = Meters(engine, self.name, number)
        places = engine.config.max_num_seqs + self.settings.max_waiting
        self.desk = Desk(self.thread, self.meters, places, self.settings.max_unread)
        drafters = tuple(drafter.name for drafter in engine.drafters)
        defaults = generator.loaded.defaults
        unknown, form = self.settings.refuse_unknown, ToolForm.of(generator.tokenizer)
        reader = Reader(base or SamplingParams(), defaults, self.context, drafters, unknown, form)
        self.answering = Answering(generator, reader, self.desk, self.name, self.settings.max_choices)
        self.tokens = Tokens(self.answering, generator.tokenizer, self.context)
        self._born = int(time.time())
        self.app = self._app()

    def drain(self) -> None:
        """Takes nothing in any more."""
        self.desk.draining = True

    def close(self) -> None:
        """Takes nothing in any more, and ends what runs."""
        self.drain()
        self.thread.close()

    def _app(self) -> FastAPI:
        app = FastAPI(title="specdec", version=__version__, docs_url=None, redoc_url=None)
        app.add_middleware(Guard, key=self.settings.api_key)
        for path, answer in {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._completion,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
        }.items():
            app.add_api_route(path, answer, methods=["POST"], response_model=None)
        told: dict[str, Callable[..., Any]] = {
            "/v1/models": self._models,
            "/v1/models/{name:path}": self._model,
            "/tokenizer_info": self._tokenizer_info,
            "/health": self._health,
            "/ping": self._health,
            "/metrics": self._metrics,
            "/version": self._version,
            **({"/": self._dashboard} if self.settings.dashboard else {}),
        }
        for path, tell in told.items():
            app.add_api_route(path, tell, methods=["GET"], response_model=None)
        app.add_exception_handler(ApiError, _refused)
        app.add_exception_handler(HTTPException, _not_there)
        app.add_exception_handler(Exception, _defect)
        return app

    async def _chat(self, request: Request) -> Response:
        return await self._answered("chat", "chatcmpl-", request)

    async def _completion(self, request: Request) -> Response:
        return await self._answered("completion", "cmpl-", request)

    async def _answered(self, kind: str, prefix: str, request: Request) -> Response:
        """The answer in one body, or as a stream; a client that leaves before its end aborts it."""
        self._check_health()
        body = await body_of(request, self.settings.max_body_bytes)
        id = request.state.request_id
        answer = await self.answering.begin(kind, body, prefix + id)
        if answer.call.stream:
            return EventStream(answer.events(), ended=partial(answer.end, id))
        status: int | None = None
        try:
            whole = await unless_left(request.receive, answer.whole())
            return Response(status_code=LEFT) if whole is None else Json(whole)
        except ApiError as error:
            status = error.status
            raise
        finally:
            answer.end(id, status)

    def _check_health(self) -> None:
        """Raises ApiError, 503, if the server shuts down or its engine is broken for good."""
        self.desk.check_open()
        if self.thread.broken is not None:
            raise ApiError(503, f"The engine is broken: {self.thread.broken} Start the server anew.")

    async def _tokenize(self, request: Request) -> Response:
        body = await body_of(request, self.settings.max_body_bytes)
        return Json(await run_in_threadpool(self.tokens.tokenize, body))

    async def _detokenize(self, request: Request) -> Response:
        body = await body_of(request, self.settings.max_body_bytes)
        return Json(await run_in_threadpool(self.tokens.detokenize, body))

    async def _tokenizer_info(self) -> Response:
        return Json(self.tokens.info())

    async def _models(self) -> Response:
        return Json({"object": "list", "data": [self._card()]})

    async def _model(self, name: str) -> Response:
        self.answering.check_model(name)
        return Json(self._card())

    def _card(self) -> dict[str, Any]:
        names = {"id": self.name, "object": "model", "root": self.name, "parent": None, "owned_by": "specdec"}
        return {**names, "created": self._born, "max_model_len": self.context}

    async def _health(self) -> Response:
        self._check_health()
        if (failure := self.thread.failure) is not None:
            raise ApiError(503, f"The engine's last step failed: {failure}")
        return Response()

    async def _metrics(self) -> Response:
        return Response(self.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _dashboard(self) -> Response:
        return dashboard()

    async def _version(self) -> Response:
        return Json({"version": __version__, "ignored_fields": list(fields.IGNORED)})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return failed(error)


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = failed(ApiError(error.status_code, f"{request.method} {request.url.path[:80]!r}: {error.detail}."))
    answer.headers.update(error.headers or {})
    return answer


async def _defect(request: Request, error: Exception) -> Response:
    """Starlette writes it into the log; the client is told nothing of the inside."""
    return failed(ApiError(500, f"The server has a defect ({type(error).__name__}); its log says more."))
