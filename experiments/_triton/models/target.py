"""Triton model `target`: a text for a prompt, over one engine that decodes all requests in flight together.

It is decoupled: a request has one response for each step of the engine, with all tokens of the step. Triton's thread
only hands requests to the thread that owns the engine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.drafters.base import Drafter, DraftRequest
from specdec.engine.outputs import StepOutput
from specdec.engine.request import Request
from specdec.errors import InvalidRequestError, SpecdecError
from specdec.serve.worker import EngineThread
from specdec.verify.tree import DraftTree, TreeShape

SERVED = "served"
"""Name of the drafter that asks the Triton model `drafter`."""
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One engine."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads what the parameter `settings` says: arguments of `SpeculativeGenerator.from_pretrained`, as JSON."""
        parameters = json.loads(args["model_config"])["parameters"]
        settings = json.loads(parameters["settings"]["string_value"])
        if settings["drafter"] == SERVED:
            settings["drafter"] = ServedDrafter()
        settings["config"] = EngineConfig(**settings["config"])
        self._generator = SpeculativeGenerator.from_pretrained(**settings)
        self._thread = EngineThread(self._generator.loop)

    def execute(self, requests: list[Any]) -> None:
        """Hands each request on; its responses come later."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                asked = self._asked(request)
            except (SpecdecError, TypeError, ValueError) as error:
                sender.send(_failed(str(error), pb_utils.TritonError.INVALID_ARG), flags=FINAL)
                continue
            self._thread.submit(asked, Stream(sender, self._thread))

    def finalize(self) -> None:
        """Ends the engine. Triton calls this when no request is left."""
        self._thread.close()

    def _asked(self, request: Any) -> Request:
        """The engine's request; it is not queued yet."""
        params = SamplingParams(**json.loads(_text(request, "sampling_parameters") or "{}"))
        if params.n != 1:
            raise InvalidRequestError("A stream has one text: leave n out, and send a request for each text.")
        tokens = self._generator.encode(_text(request, "text_input"))
        return self._generator.engine.make_request(tokens, params.over(self._generator.loaded.defaults))


class Stream:
    """Sends a request's steps, in the engine's thread. If the client has cancelled it, the request ends before the next
    step.

    Args:
        sender: of the request's responses.
        thread: runs the engine.
    """

    def __init__(self, sender: Any, thread: EngineThread) -> None:
        self._sender, self._thread = sender, thread

    def __call__(self, output: StepOutput) -> None:
        """Sends what a step brought."""
        request = output.request
        if output.finish_reason is None:
            if self._sender.is_cancelled():
                self._thread.abort(request)
            else:
                self._sender.send(_step(output))
            return
        self._sender.send(_last(output), flags=FINAL)
        pb_utils.Logger.log_info(
            f"request {request.id}: {output.finish_reason} after {len(request.output)} tokens, "
            f"τ {request.stats.mean_accepted_length:.2f}"
        )


class ServedDrafter(Drafter):
    """Asks the Triton model `drafter` for its drafts, for all requests of a step at once, so that it can batch them.

    That model may be replaced or unloaded while requests run. Their drafts depend on that, so `shares` is set: only
    rules whose text does not depend on the draft judge them. Without an answer there is no draft.
    """

    name = SERVED
    shares = True

    def __init__(self) -> None:
        super().__init__(shape=TreeShape.fork(2, 8))
        self._callers = ThreadPoolExecutor(8)

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """What the model drafts for each; what is more than a draft may have is cut off."""
        return list(self._callers.map(self._draft, requests))

    def _draft(self, request: DraftRequest) -> DraftTree:
        tokens = np.array([request.tokens], np.int32)
        depth = np.array([[min(request.max_depth, self.num_draft_tokens)]], np.int32)
        inputs = [pb_utils.Tensor("token_ids", tokens), pb_utils.Tensor("max_depth", depth)]
        answer = pb_utils.InferenceRequest(
            model_name="drafter", inputs=inputs, requested_output_names=["draft_token_ids", "draft_parents"]
        ).exec()
        if answer.has_error():
            raise SpecdecError(answer.error().message())
        drafted, parents = (
            pb_utils.get_output_tensor_by_name(answer, name).as_numpy()[0, : self.max_nodes(request.max_depth)]
            for name in ("draft_token_ids", "draft_parents")
        )
        return DraftTree(tuple(drafted.tolist()), tuple(parents.tolist()))


def _text(request: Any, name: str) -> str:
    """An input; empty if it is left out."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return "" if tensor is None else tensor.as_numpy()[0].decode()


def _step(output: StepOutput) -> Any:
    text = "".join(piece.text for piece in output.pieces)
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("text_output", np.array([text.encode()], np.object_)),
            pb_utils.Tensor("token_ids", np.array(output.token_ids, np.int32)),
            pb_utils.Tensor("finish_reason", np.array([(output.finish_reason or "").encode()], np.object_)),
        ]
    )


def _last(output: StepOutput) -> Any:
    if output.finish_reason == "error":
        return _failed(str(output.request.error), pb_utils.TritonError.INTERNAL)
    if output.finish_reason == "aborted":
        return _failed("The request was cancelled.", pb_utils.TritonError.CANCELLED)
    return _step(output)


def _failed(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse([], error=pb_utils.TritonError(message, code))
