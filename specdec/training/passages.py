"""Passages to ask about: prose in the triple-quoted strings of installed Python packages.

Weights are derived from them, and no text of theirs is passed on.
"""

from __future__ import annotations

import importlib.util
import re
import sysconfig
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random

SHORTEST, LONGEST = 30, 140
"""Words of a passage."""
MOST_JOINED = 10
"""Passages of one long text."""
LARGEST_FILE = 400_000
"""Bytes of a source file that is read."""
LANGUAGES = ("French", "German", "Spanish", "Italian", "Portuguese")
INSTRUCTIONS = (
    "Summarize the following text:\n\n{passage}",
    "Summarize this in one sentence: {passage}",
    "{passage}\n\nTL;DR",
    "Rewrite the following in simpler words.\n\n{passage}",
    "Translate the first sentence into {language}: {passage}",
    "Translate to {language}:\n{passage}",
    "{passage}\n\nWhat is this text about?",
    "Read the text and list its key points.\n\nText: {passage}",
    "Write three questions that can be answered from this text, and answer them.\n\n{passage}",
    "Context: {passage}\n\nQuestion: What does the text say first, and why does it matter?\nAnswer:",
    "Explain to a beginner what this means: {passage}",
    "Correct any mistakes in the following text and return it:\n\n{passage}",
)


def passages(packages: Sequence[str], most: int, seed: int) -> list[str]:
    """Distinct passages of prose, the same for the same versions of the packages.

    Args:
        packages: names of packages; what is not installed is passed over. "python" is the standard library.
        most: how many; there may be fewer.
        seed: of the order in which files are read.
    """
    files = [file for name in packages for file in _files(name)]
    Random(seed).shuffle(files)
    found = (text for file in files for text in _prose(file))
    return list(islice(dict.fromkeys(found), most))


def question(known: Sequence[str], random: Random) -> str:
    """One passage, or one time in three several of them as one long text, with something to do about it."""
    count = random.randint(2, MOST_JOINED) if random.random() < 1 / 3 else 1
    passage = "\n\n".join(random.choice(known) for _ in range(count))
    return random.choice(INSTRUCTIONS).format(passage=passage, language=random.choice(LANGUAGES))


def _files(package: str) -> list[Path]:
    """Source files, in the order of their names; nothing is imported."""
    if package == "python":
        folders = [Path(sysconfig.get_paths()["stdlib"])]
        apart = {"site-packages", "dist-packages", "test", "tests", "idlelib"}
    else:
        spec = importlib.util.find_spec(package)
        folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec is not None else []
        apart = {"test", "tests", "testing"}
    files = (path for folder in folders for path in folder.rglob("*.py") if not apart & set(path.parts))
    return sorted(path for path in files if path.stat().st_size <= LARGEST_FILE)


def _prose(file: Path) -> Iterator[str]:
    try:
        source = file.read_text(encoding="utf-8")
    except (ValueError, OSError):
        return
    for quoted in re.findall(r'"""(.*?)"""', source, re.DOTALL):
        for paragraph in re.split(r"\n\s*\n", quoted):
            text = " ".join(paragraph.split())
            if is_prose(text):
                yield text


def is_prose(text: str) -> bool:
    """Whether it is a paragraph of sentences and not a signature, an example or a table."""
    words = text.split()
    letters = sum(map(str.isalpha, text)) + text.count(" ")
    return (
        SHORTEST <= len(words) <= LONGEST
        and letters >= 0.93 * len(text)
        and text.isascii()
        and not re.search(r">>>|::|\{|\}|-----|=====|https?:|\bparam\b|@|\*optional\*|(Args|Returns|TODO)\b", text)
        and text.rstrip()[-1] in ".!?"
    )
