"""What a prompt may be, and prompts to decode: a few of our own, a file, or a published set (docs/data.md)."""

from specdec.prompts.chat import Chat
from specdec.prompts.records import PromptRecord, load_prompts

__all__ = ["Chat", "PromptRecord", "load_prompts"]
