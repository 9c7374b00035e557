"""Triton model `tokenize`: the target's tokenizer. The ids are those that the engine reads for the same text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from specdec.errors import SpecdecError
from specdec.models.sources import tokenizer_alone
from specdec.prompts.encoding import PromptEncoder


class TritonPythonModel:
    """One tokenizer."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the tokenizer of the model that the parameter `settings` names."""
        parameters = json.loads(args["model_config"])["parameters"]
        settings = json.loads(parameters["settings"]["string_value"])
        self._encoder = PromptEncoder(tokenizer_alone(settings["target"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Token ids of the text of each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        [[text]] = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
        try:
            tokens = self._encoder.encode(text.decode())
        except (SpecdecError, UnicodeDecodeError) as error:
            return pb_utils.InferenceResponse([], error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse([pb_utils.Tensor("token_ids", np.array([tokens], np.int32))])
