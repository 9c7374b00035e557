"""Several threads share one engine: each gets its own outputs, whole and in order, whoever runs the steps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from specdec import BatchError, EngineLoop, SamplingParams, SpecdecError, SpeculativeGenerator
from specdec.engine.outputs import StepOutput
from specdec.models.base import CausalLM
from specdec.models.loading import LoadedModel
from specdec.models.native import NativeModel
from tests.engines import DRAFTERS, drain, hopeless, outputs, run, small_engine
from tests.tiny import llama, llama_module

PROMPTS = [[5], [1, 2, 3, 1, 2, 3, 1], list(range(10, 40)), [7, 7, 7, 7], [60, 3, 9], [4, 4], [8, 1, 8, 1], [33]]
PARAMS = [SamplingParams(max_tokens=12 + index, temperature=0.8 * (index % 2), seed=index) for index in range(8)]


class Words:
    chat_template = None

    def decode(self, ids: list[int], **_: bool) -> str:
        return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def plain() -> list[list[int]]:
    return outputs(run(small_engine(DRAFTERS["none"](), "gumbel"), PROMPTS, PARAMS))


def joined(found: list[StepOutput]) -> list[int]:
    return [token for output in found for token in output.token_ids]


def test_outputs_come_as_they_are_made_and_end_with_a_reason(plain: list[list[int]]) -> None:
    loop = EngineLoop(small_engine(DRAFTERS["ngram"](), "gumbel"))
    requests = [loop.engine.make_request(*pair) for pair in zip(PROMPTS, PARAMS, strict=True)]
    for request in requests:
        loop.submit(request)
    found = list(loop.outputs(requests))
    for request, text in zip(requests, plain, strict=True):
        own = [output for output in found if output.request is request]
        assert joined(own) == text
        assert [output.finish_reason for output in own] == [None] * (len(own) - 1) + ["length"]


def test_many_threads_submit_stream_and_abort_at_once(plain: list[list[int]]) -> None:
    """Eight threads, six requests each: a third is aborted after two outputs, a third left by closing the stream."""
    engine = small_engine(DRAFTERS["model"](), "gumbel", num_blocks=40, max_num_seqs=4)
    loop, failures = EngineLoop(engine), list[str]()
    start = threading.Barrier(8)

    def client(thread: int) -> None:
        start.wait()
        for turn in range(6):
            index = (thread + turn) % 8
            request = engine.make_request(PROMPTS[index], PARAMS[index])
            loop.submit(request)
            found: list[StepOutput] = []
            stream = loop.outputs([request])
            for output in stream:
                found.append(output)
                if len(found) == 2 and turn % 3 == 1:
                    loop.abort(request)
                if len(found) == 2 and turn % 3 == 2:
                    stream.close()
            text = joined(found)
            whole = {
                0: text == plain[index],
                1: plain[index][: len(text)] == text,
                2: plain[index][: len(text)] == text,
            }
            last = {
                0: found[-1].finish_reason == "length",
                1: found[-1].finish_reason in ("aborted", "length"),
                2: True,
            }
            if not (whole[turn % 3] and last[turn % 3]):
                failures.append(f"{index}, {turn}: {text}, {[output.finish_reason for output in found]}")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
    drain(engine)  # what was closed while another thread stepped is gone by the next step at the latest
    assert loop._mail == {}


def test_an_abort_yields_an_output_in_every_state() -> None:
    loop = EngineLoop(small_engine(DRAFTERS["ngram"](), max_num_seqs=1))
    running, queued, late = (loop.engine.make_request(prompt, PARAMS[0]) for prompt in PROMPTS[:3])
    loop.submit(running)
    loop.submit(queued)
    stream = loop.outputs([running])
    next(stream)
    loop.abort(running)
    assert [output.finish_reason for output in stream] == ["aborted"]
    loop.abort(queued)
    assert [output.finish_reason for output in loop.outputs([queued])] == ["aborted"]
    loop.submit(late)
    loop.abort_all()
    assert [output.finish_reason for output in loop.outputs([late])] == ["aborted"]
    loop.abort(late)  # it has ended: nothing happens
    assert not loop.engine.has_work


def test_a_step_that_fails_as_a_whole_ends_everyones_requests(plain: list[list[int]]) -> None:
    loop = EngineLoop(small_engine(DRAFTERS["none"](), "gumbel"))
    model: Any = loop.engine.model
    forward = model.run
    broken = [loop.engine.make_request(prompt, PARAMS[0]) for prompt in PROMPTS[:3]]
    for request in broken:
        loop.submit(request)

    def fail(*args: object) -> None:
        raise MemoryError("no memory left")

    model.run = fail
    assert {output.finish_reason for output in loop.outputs(broken)} == {"error"}
    assert all(isinstance(request.error, MemoryError) for request in broken)
    assert loop.engine.cache.num_free_blocks == loop.engine.cache.num_blocks
    model.run = forward
    request = loop.engine.make_request(PROMPTS[0], PARAMS[0])
    loop.submit(request)
    assert joined(list(loop.outputs([request]))) == plain[0]


def test_waiting_for_what_was_never_submitted_is_an_error() -> None:
    loop = EngineLoop(small_engine(DRAFTERS["none"]()))
    request = loop.engine.make_request([1], PARAMS[0])
    loop._mail[request.id] = __import__("collections").deque()
    with pytest.raises(SpecdecError, match="not in this engine"):
        list(loop.outputs([request]))


def test_two_threads_generate_on_one_generator(plain: list[list[int]]) -> None:
    generator = SpeculativeGenerator(LoadedModel(llama(0), Words(), ()), "ngram", "gumbel")
    found: dict[int, list[list[int]]] = {}

    def work(half: int) -> None:
        done = generator.generate(PROMPTS[half::2], PARAMS[half::2])
        found[half] = [generation.token_ids for generation in done]

    threads = [threading.Thread(target=work, args=(half,)) for half in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert found == {0: plain[0::2], 1: plain[1::2]}
    with pytest.raises(BatchError):
        generator.generate(PROMPTS[:2], [PARAMS[0], hopeless(64)])


def texts_of(generator: SpeculativeGenerator, turns: range) -> list[list[int]]:
    """One request after the other, and some in batches."""
    found: list[list[int]] = []
    for turn in turns:
        first = turn % len(PROMPTS)
        chosen = [first] if turn % 3 else [first, (first + 3) % len(PROMPTS)]
        done = generator.generate([PROMPTS[i] for i in chosen], [PARAMS[i] for i in chosen])
        found.extend(generation.token_ids for generation in done)
    return found


MODELS: dict[str, Callable[[], CausalLM]] = {
    "transformers": lambda: llama(0),
    "native": lambda: NativeModel(llama_module(0)),
    "int8": lambda: NativeModel(llama_module(0), kind="int8", kv_dtype=torch.int8),
}


@pytest.mark.parametrize(
    ("model", "drafter"),
    [("native", "early exit"), ("native", "model"), ("int8", "ngram"), ("transformers", "early exit")],
)
def test_generators_over_the_same_weights_run_in_threads_of_their_own(model: str, drafter: str) -> None:
    """Each has its own cache; a pass that wrote which one it uses into what they share would mix up their texts."""
    first = SpeculativeGenerator(LoadedModel(MODELS[model](), Words(), ()), DRAFTERS[drafter](), "gumbel")
    generators = [first, first.with_drafter(DRAFTERS[drafter](), "gumbel"), first.with_drafter("none", "gumbel")]
    want = texts_of(first, range(6))
    found: dict[int, list[list[int]]] = {}
    start = threading.Barrier(3)

    def work(number: int) -> None:
        start.wait()
        found[number] = texts_of(generators[number], range(6))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert found == dict.fromkeys(range(3), want)
    for generator in generators:
        generator.engine.cache.check_integrity()


def test_one_generator_serves_coroutines_by_threads(plain: list[list[int]]) -> None:
    generator = SpeculativeGenerator(LoadedModel(llama(0), Words(), ()), "ngram", "gumbel")

    async def ask(index: int) -> list[int]:
        [generation] = await asyncio.to_thread(generator.generate, PROMPTS[index : index + 1], PARAMS[index])
        return generation.token_ids

    async def all_of_them() -> list[list[int]]:
        return await asyncio.gather(*map(ask, range(len(PROMPTS))))

    assert asyncio.run(all_of_them()) == plain


def test_a_second_thread_that_steps_is_refused(plain: list[list[int]]) -> None:
    """While a step runs, an engine answers every other thread's call with an error, and nothing is mixed up."""
    engine = small_engine(DRAFTERS["none"](), "gumbel")
    requests = [engine.make_request(*pair) for pair in zip(PROMPTS, PARAMS, strict=True)]
    for request in requests:
        engine.add(request)
    model: Any = engine.model
    forward, refused = model.run, list[str]()

    def meddle() -> None:
        for use in (engine.step, lambda: engine.add(requests[-1]), lambda: engine.abort(requests[-1]), engine.mend):
            try:
                use()
            except SpecdecError as error:
                refused.append(str(error))

    def watched(*args: Any) -> Any:
        other = threading.Thread(target=meddle)
        other.start()
        other.join()
        return forward(*args)

    model.run = watched
    steps = 0
    while engine.has_work:
        engine.step()
        steps += 1
    assert outputs(requests) == plain
    assert len(refused) == 4 * steps
    assert all("one thread at a time may use it" in error for error in refused)


def test_a_request_is_submitted_once_and_its_outputs_are_taken_once() -> None:
    loop = EngineLoop(small_engine(DRAFTERS["none"]()))
    request = loop.engine.make_request([1], PARAMS[0])
    loop.submit(request)
    with pytest.raises(SpecdecError, match="Request 0 was submitted before"):
        loop.submit(request)
    list(loop.outputs([request]))
    with pytest.raises(SpecdecError, match="was not submitted to this loop, or its outputs have been taken"):
        list(loop.outputs([request]))
    with pytest.raises(SpecdecError, match="was submitted before"):
        loop.submit(request)
    stranger = loop.engine.make_request([1], PARAMS[0])
    with pytest.raises(SpecdecError, match="Request 1 was not submitted to this loop"):
        list(loop.outputs([stranger]))
