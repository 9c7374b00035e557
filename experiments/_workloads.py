"""Programs whose requests have beginnings in common: the workloads of SGLang's paper (arXiv 2312.07104), in small."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import product
from typing import Any

from specdec import SamplingParams, SpeculativeGenerator, gather
from specdec.programs import Call, Session

SHORT = SamplingParams(max_tokens=8, stop="\n")
FACTS = ("Paris is in France.", "Rome is in Italy.", "Oslo is in Norway.", "Lima is in Peru.", "Cairo is in Egypt.")


def few_shot(generator: SpeculativeGenerator) -> None:
    """Forty-eight questions behind the same eight examples, all at once."""
    examples = "".join(f"Review: the {thing} was {mood}.\nMood: {mood}\n\n" for thing, mood in EXAMPLES)
    asked = [f"{examples}Review: the {thing} was {how}.\nMood:" for thing, how in product(THINGS, FOUND)]
    gather(*(generator.session(text).gen(SHORT) for text in asked))


def agents(generator: SpeculativeGenerator) -> None:
    """Four agents that think, act and read the result three times, with one instruction."""
    rules = "Answer by steps. Thought: what to do. Action: lookup(word). Result: what was found.\n" * 3

    def agent(topic: str) -> Program:
        session = generator.session(f"{rules}Question: where is {topic}?\nThought:")
        for fact in FACTS[:3]:
            yield session.gen(SHORT)
            session.append(f"\nAction: lookup({topic})\nResult: {fact}\nThought:")

    gather(*(agent(topic) for topic in ("Paris", "Rome", "Oslo", "Lima")))


def tree_of_thought(generator: SpeculativeGenerator) -> None:
    """Two levels of three thoughts, all of which are thought further."""
    root = generator.session(
        "A farmer must cross a river with a wolf, a goat and a cabbage. His boat holds him and one of them. Alone, "
        "a wolf eats a goat, and a goat eats a cabbage. Make a plan in short steps."
    )

    def think(session: Session, depth: int) -> Program:
        children = [child.append("\nNext:") for child in session.fork(3)]
        yield [child.gen(SamplingParams(max_tokens=24, temperature=0.8, seed=depth)) for child in children]
        for child in children if depth else ():
            yield from think(child, depth - 1)

    gather(think(root, 1))


def self_consistency(generator: SpeculativeGenerator) -> None:
    """Eight answers to each of three questions."""
    params = SamplingParams(max_tokens=12, temperature=0.7, seed=0)
    asked = [generator.session(f"Q: There are {n} birds and 3 fly away. How many are left?\nA:") for n in (9, 12, 20)]
    gather(*(child.gen(params) for session in asked for child in session.fork(8)))


def multi_turn(generator: SpeculativeGenerator) -> None:
    """Four chats of five turns, side by side."""

    def chat(topic: str) -> Program:
        session = generator.session([{"role": "user", "content": f"Tell me about {topic}."}])
        for more in ("Why?", "Say it shorter.", "And what else is there to know about it?", "Thank you. Any advice?"):
            yield session.gen(SamplingParams(max_tokens=48))
            session.append([{"role": "user", "content": more}])
        yield session.gen(SamplingParams(max_tokens=48))

    gather(*(chat(topic) for topic in ("rivers", "bread", "stars", "horses")))


def shared_documents(generator: SpeculativeGenerator) -> None:
    """Four questions on each of three documents, one document after the other in turns."""
    documents = [" ".join(FACTS[place:] + FACTS[:place]) * 3 for place in range(3)]
    for thing in ("France", "Italy", "Norway", "Peru"):
        asked = (
            generator.session(f"{document}\nQuestion: which city is in {thing}?\nAnswer:") for document in documents
        )
        gather(*(session.gen(SHORT) for session in asked))


def little_shared(generator: SpeculativeGenerator) -> None:
    """Forty-eight texts that soon differ: what the cache costs where it finds next to nothing."""
    kinds = enumerate(product(THINGS, FOUND), start=100)
    asked = [f"{number} words about a {how} {thing}, as an old sailor would tell it:" for number, (thing, how) in kinds]
    gather(*(generator.session(text).gen(SamplingParams(max_tokens=24)) for text in asked))


Program = Generator[Call[Any] | list[Call[Any]], Any, None]
EXAMPLES = (("food", "good"), ("film", "bad"), ("room", "good"), ("beach", "bad"), ("book", "good"), ("song", "bad"),
            ("game", "good"), ("tour", "bad"))  # fmt: skip
THINGS = ("car", "bus", "train", "boat", "bike", "plane", "house", "park", "shop", "bar", "pool", "zoo")
FOUND = ("fine", "slow", "clean", "small")
WORKLOADS: dict[str, Callable[[SpeculativeGenerator], None]] = {
    "few-shot": few_shot, "agents": agents, "tree of thought": tree_of_thought, "self-consistency": self_consistency,
    "multi-turn chat": multi_turn, "shared documents": shared_documents, "little shared": little_shared,
}  # fmt: skip
