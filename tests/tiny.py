"""Tiny random models, so that whole-engine tests take milliseconds a step."""

from specdec.testing.tiny import VOCAB_SIZE, llama, llama_module

__all__ = ["VOCAB_SIZE", "llama", "llama_module"]
