"""A client of the model `target` over gRPC, with NVIDIA's tritonclient. It runs in the environment of that.

python client.py ADDRESS

It reads a line of JSON, a list of {"text_input": …, "sampling_parameters": {…}}, and asks for all of them at the same
time. When each has its first response it prints "begun". A further line cancels those that still run. In the end it
prints a line of JSON: for each the list of its responses, {"text_output", "token_ids", "finish_reason"} or {"error"}.
"""

from __future__ import annotations

import json
import sys
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
from tritonclient import grpc

SECONDS = 120
"""That a response may take."""
CANCELLED = None, None


class Stream:
    """A request on a connection of its own.

    Args:
        address: of the server.
        asked: what for.
    """

    def __init__(self, address: str, asked: dict[str, Any]) -> None:
        self.over = False
        self._arrived: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
        self._client = grpc.InferenceServerClient(address)
        self._client.start_stream(lambda result, error: self._arrived.put((result, error)))
        texts = {"text_input": asked["text_input"], "sampling_parameters": json.dumps(asked["sampling_parameters"])}
        inputs = [_input(*each) for each in texts.items()]
        self._client.async_stream_infer("target", inputs, enable_empty_final_response=True)

    def next(self) -> dict[str, Any]:
        """The next response; `over` tells whether it is the last."""
        result, error = self._arrived.get(timeout=SECONDS)
        if result is None:
            self.over = True
            return {"error": "cancelled" if error is None else error.message()}
        self.over = result.get_response().parameters["triton_final_response"].bool_param
        text, reason = (result.as_numpy(name)[0].decode() for name in ("text_output", "finish_reason"))
        return {"text_output": text, "token_ids": result.as_numpy("token_ids").tolist(), "finish_reason": reason}

    def cancel(self) -> None:
        """Ends the request."""
        self._client.stop_stream(cancel_requests=True)
        self._arrived.put(CANCELLED)

    def close(self) -> None:
        """Ends the connection; its threads would keep the program running."""
        self._client.close()


def _input(name: str, text: str) -> Any:
    tensor = grpc.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], np.object_))
    return tensor


def main(address: str) -> None:
    """Asks, and prints."""
    streams = [Stream(address, asked) for asked in json.loads(sys.stdin.readline())]
    found = [[stream.next()] for stream in streams]
    print("begun", flush=True)
    Thread(target=lambda: [stream.cancel() for _ in sys.stdin for stream in streams], daemon=True).start()
    for responses, stream in zip(found, streams, strict=True):
        while not stream.over:
            responses.append(stream.next())
        stream.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
