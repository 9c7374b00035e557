"""Errors of other libraries become ours, with their cause; our own and what stops a program pass."""

from __future__ import annotations

import pytest

from specdec.errors import ConfigError, InvalidRequestError, UnsupportedModelError
from specdec.foreign import described, foreign


def test_a_foreign_error_says_what_was_tried_and_what_to_do() -> None:
    cause = ImportError("Loading a GPTQ model\nneeds gptqmodel")
    with pytest.raises(UnsupportedModelError) as caught, foreign(UnsupportedModelError, "Cannot load x", "Install it."):
        raise cause
    assert str(caught.value) == "Cannot load x: Loading a GPTQ model needs gptqmodel. Install it."
    assert caught.value.__cause__ is cause


def test_our_own_errors_pass() -> None:
    with pytest.raises(ConfigError, match=r"^mine$"), foreign(InvalidRequestError, "Cannot read it"):
        raise ConfigError("mine")


def test_a_panic_of_a_library_in_rust_is_an_error_like_others() -> None:
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    with pytest.raises(UnsupportedModelError) as caught, foreign(UnsupportedModelError, "Cannot read x"):
        raise panic("index out of bounds")
    assert str(caught.value) == "Cannot read x: index out of bounds."


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_stops_a_program_passes(stop: type[BaseException]) -> None:
    with pytest.raises(stop), foreign(InvalidRequestError, "Cannot read it"):
        raise stop


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (KeyError("size"), "KeyError: 'size'."),
        (ValueError(), "ValueError."),
        (RecursionError("maximum depth"), "RecursionError: maximum depth."),
        (ValueError("Really?"), "Really?"),
        (ValueError("a" * 1000), "a" * 300 + "…"),
    ],
)
def test_a_cause_in_one_line(cause: Exception, words: str) -> None:
    assert described(cause) == words
