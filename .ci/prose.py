"""Is the prose easy to read? Long sentences, stiff words and doubled words in README and docs, one a line.

python .ci/prose.py             # what to rewrite; exit code 1 if there is anything
python .ci/prose.py --figures   # words, words per sentence and Flesch reading ease of each page
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
WRITTEN_BY_PROGRAMS = {"kernels", "mutation", "predictions"}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST = 36
"""Words of a sentence."""
STIFF = {
    "affair": "task", "anew": "again", "are told of": "see", "at load": "when it loads", "came of": "the result of",
    "dear": "costs much", "dearer": "costs more", "due to the fact that": "because", "faces": "code and proof",
    "for nothing": "free, or: with no further work", "gone on": "continued", "hence": "so", "in one go": "in one step",
    "in order to": "to", "in the case that": "if", "is told of": "sees", "leverage": "use", "save for": "except",
    "so many": "this many", "the law": "the distribution", "target's law": "target's distribution",
    "thereof": "of it", "upon": "on", "utilize": "use", "whereby": "by which", "whilst": "while",
}  # fmt: skip
"""What not to write, and what to write."""


END = r"(?<=[.!?]) +(?=[A-ZΑ-Ω_\"(])|(?<=;) +"
CODE = "_"
"""Stands for code in a sentence; it counts as no word."""


class Sentence(NamedTuple):
    """Where it begins, and its text without marks."""

    line: int
    text: str


def sentences(page: str) -> Iterator[Sentence]:
    """Of paragraphs and lists; tables, headings and code are left out.

    >>> [*sentences("# A\\n\\nOne `x.y` two. Three\\nfour.\\n\\n| a |\\n\\n- Five")]
    [Sentence(line=3, text='One _ two.'), Sentence(line=3, text='Three four.'), Sentence(line=8, text='Five')]
    """
    page = re.sub(r"^```.*?^```$", lambda found: "\n" * found[0].count("\n"), page, flags=re.DOTALL | re.MULTILINE)
    paragraph, start = "", 0
    for number, line in enumerate([*page.splitlines(), ""], 1):
        text = re.match(r"\s*(?:[-*]|\d+\.) +(.*)", line)
        if paragraph and (text or not line.strip() or line.startswith(("|", "#"))):
            yield from (Sentence(start, one) for one in re.split(END, plain(paragraph)))
            paragraph = ""
        if line.strip() and not line.startswith(("|", "#", "![")):
            start = start if paragraph else number
            paragraph += f" {text[1] if text else line.strip()}"


def plain(markdown: str) -> str:
    """Words as they are read aloud: code is a sign, a link its text."""
    text = re.sub(r"`[^`]+`", CODE, markdown.strip())
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text).replace("**", "").replace("*", "")


def words(text: str) -> list[str]:
    """Without numbers and signs."""
    return re.findall(r"[A-Za-zÀ-ÿ][A-Za-zÀ-ÿ'’-]*", text)


def complaints(page: str) -> Iterator[str]:
    """What to rewrite, with its line."""
    for line, text in sentences(page):
        count = len(words(text))
        if count > LONGEST:
            yield f"{line}: a sentence of {count} words: {text[:60]}…"
        for word, better in STIFF.items():
            if re.search(rf"\b{word}\b", text, re.IGNORECASE):
                yield f"{line}: {word!r}: write {better!r}"
        for twice in re.findall(r"\b(\w+) \1\b", text):
            yield f"{line}: {twice!r} stands there twice"


def syllables(word: str) -> int:
    """About: groups of vowels, without a silent e."""
    return max(1, len(re.findall(r"[aeiouy]+", re.sub(r"e$", "", word.lower()))))


def figures(page: str) -> tuple[int, float, float]:
    """Words, words per sentence, and Flesch reading ease (Flesch 1948: 206.835 - 1.015 W/S - 84.6 syllables/W)."""
    found = [one for one in map(words, (sentence.text for sentence in sentences(page))) if one]
    flat = [word for sentence in found for word in sentence]
    per_sentence, per_word = len(flat) / len(found), sum(map(syllables, flat)) / len(flat)
    return len(flat), per_sentence, 206.835 - 1.015 * per_sentence - 84.6 * per_word


def main() -> int:
    """The command."""
    texts = {path: path.read_text(encoding="utf-8") for path in PAGES if path.stem not in WRITTEN_BY_PROGRAMS}
    if "--figures" in sys.argv:
        for name, text in [*((path.name, text) for path, text in texts.items()), ("all", "\n\n".join(texts.values()))]:
            print("{:20} {:6} words {:5.1f} a sentence  Flesch {:4.1f}".format(name, *figures(text)))
        return 0
    found = [f"{path.relative_to(ROOT)}:{line}" for path, text in texts.items() for line in complaints(text)]
    print("\n".join(found) or "The prose reads well.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
