"""Prompts to decode: a few of our own, a file, or a published set (docs/data.md)."""

from specdec.prompts.records import PromptRecord, load_prompts

__all__ = ["PromptRecord", "load_prompts"]
