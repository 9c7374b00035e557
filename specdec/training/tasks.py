"""Questions from templates: sums, lists, code, letters, roles. No text of others is in them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

NAMES = ("Ada", "Ben", "Chen", "Dina", "Emil", "Fatima", "Grace", "Hugo", "Ines", "Jamal", "Kira", "Leo", "Maya",
         "Noor", "Olga", "Pavel", "Rosa", "Sam", "Tara", "Yusuf")  # fmt: skip
THINGS = ("apples", "pencils", "stamps", "marbles", "cookies", "books", "shells", "tickets", "coins", "flowers",
          "eggs", "stickers", "bottles", "buttons", "cards")  # fmt: skip
TOPICS = ("volcanoes", "the water cycle", "photosynthesis", "inflation", "the printing press", "black holes", "bees",
          "vaccines", "the Roman Empire", "recycling", "electric cars", "sleep", "memory", "the stock market", "tides",
          "music theory", "ancient Egypt", "machine learning", "gravity", "democracy", "the Silk Road", "coral reefs",
          "DNA", "supply and demand", "earthquakes", "the French Revolution", "antibiotics", "jazz", "bridges",
          "probability", "climate change", "the immune system", "chess", "coffee", "trains", "poetry")  # fmt: skip
PLACES = ("Kyoto", "Cairo", "Lisbon", "Nairobi", "Quito", "Oslo", "Istanbul", "Hanoi", "Montreal", "Cape Town",
          "a small village", "a lighthouse", "a space station", "a library", "a night train", "the desert")  # fmt: skip
ROLES = ("a museum guide", "a ship's captain", "a detective", "a chemistry teacher", "a travel agent", "a wizard",
         "a doctor", "a football coach", "a judge", "a chef", "a time traveller", "a robot", "a gardener")  # fmt: skip
CODE = ("reverses a string", "finds the largest number in a list", "checks whether a word is a palindrome",
        "counts the vowels in a text", "sorts a list of names", "computes the factorial of n",
        "merges two sorted lists", "removes duplicates from a list", "computes the Fibonacci numbers up to n",
        "checks whether n is prime",
        "flattens a nested list", "counts the words in a file", "converts Celsius to Fahrenheit",
        "finds the common elements of two lists", "rotates a matrix", "parses a date", "sums the digits of n",
        "groups words by their first letter", "implements a stack", "does a binary search")  # fmt: skip
LANGUAGES = ("Python", "Python", "Python", "JavaScript", "Java", "C++", "SQL", "Rust", "Go")
KINDS_OF_TEXT = ("a short story", "a poem", "a blog post", "a letter", "an email to a colleague", "a speech",
                 "an essay", "a dialogue", "a product description", "a news report", "a diary entry")  # fmt: skip


def task(random: Random) -> str:
    """One question: everything in it follows from `random`."""
    return random.choice(_MAKERS)(random)


def _sum(random: Random) -> str:
    a, b, c = (random.randint(2, 10 ** random.randint(1, 3)) for _ in range(3))
    sign, other = random.sample("+-*", 2)
    return random.choice(
        [f"What is {a} {sign} {b}?", f"Compute {a} {sign} {b} {other} {c} step by step.", f"Solve: {a} {sign} {b} ="]
    )


def _story(random: Random) -> str:
    one, two = random.sample(NAMES, 2)
    thing, a, b, c = random.choice(THINGS), random.randint(5, 90), random.randint(2, 30), random.randint(2, 9)
    return random.choice(
        [
            f"{one} has {a} {thing}. {two} gives {one} {b} more, and then {one} shares them equally among {c} friends. "
            f"How many {thing} does each friend get, and how many are left?",
            f"A box holds {b} {thing}. {one} buys {c} boxes and loses {random.randint(1, b)} {thing}. How many remain?",
            f"{one} sells {a} {thing} at ${c} each and pays ${b} for the stall. How much does {one} earn?",
            f"{one} reads {b} pages a day. {two} reads {c} pages more each day. How many pages have they read together "
            f"after {random.randint(2, 14)} days?",
            f"A train travels {a * 4} km in {c} hours. How far does it go in {random.randint(2, 12)} hours?",
        ]
    )


def _algebra(random: Random) -> str:
    a, b, x = random.randint(2, 12), random.randint(1, 40), random.randint(1, 20)
    return random.choice(
        [
            f"Solve for x: {a}x + {b} = {a * x + b}. Show your work.",
            f"What is {random.randint(1, 19) * 5}% of {random.randint(2, 60) * 10}?",
            f"A rectangle is {a} cm wide and {b} cm long. What are its area and its perimeter?",
            f"What is the average of {', '.join(str(random.randint(1, 99)) for _ in range(random.randint(3, 6)))}?",
            f"If f(x) = {a}x - {b}, what is f({x})?",
        ]
    )


def _list(random: Random) -> str:
    numbers = ", ".join(str(random.randint(1, 500)) for _ in range(random.randint(4, 9)))
    words = ", ".join(random.sample(THINGS + NAMES, random.randint(4, 7)))
    return random.choice(
        [
            f"Sort these numbers from small to large: {numbers}",
            f"Put these words in alphabetical order: {words}",
            f"Which of these numbers are even? {numbers}",
            f"Count the letters in each of these words: {words}",
            f"Write this list as a JSON array: {words}",
            f"Make a table with a column for the name and one for its length: {words}",
            f"Name {random.randint(3, 10)} facts about {random.choice(TOPICS)}.",
            f"Give me {random.randint(3, 8)} ideas for a day in {random.choice(PLACES)}.",
        ]
    )


def _code(random: Random) -> str:
    language, does = random.choice(LANGUAGES), random.choice(CODE)
    return random.choice(
        [
            f"Write a {language} function that {does}.",
            f"How do I write a function in {language} that {does}? Explain each line.",
            f"Write {language} code that {does}, with an example of its use.",
            f"Write unit tests for a {language} function that {does}.",
        ]
    )


def _explain(random: Random) -> str:
    topic, other = random.sample(TOPICS, 2)
    return random.choice(
        [
            f"Explain {topic} to a child.",
            f"What are the main ideas behind {topic}?",
            f"How is {topic} related to {other}?",
            f"Write a quiz of {random.randint(3, 6)} questions about {topic}, with answers.",
            f"What are the advantages and disadvantages of studying {topic}?",
            f"Who contributed most to our understanding of {topic}, and how?",
            f"Give a step-by-step plan to learn about {topic} in {random.randint(2, 8)} weeks.",
        ]
    )


def _write(random: Random) -> str:
    kind, topic, place, name = (random.choice(each) for each in (KINDS_OF_TEXT, TOPICS, PLACES, NAMES))
    return random.choice(
        [
            f"Write {kind} about {topic}.",
            f"Write {kind} about {name}, who visits {place} for the first time.",
            f"Write {kind} in which {topic} and {place} both appear, in less than {random.randint(6, 20) * 10} words.",
            f"Describe {place} in the early morning.",
            f"Continue this story: When {name} came to {place}, nobody was there.",
        ]
    )


def _role(random: Random) -> str:
    role, topic, place = (random.choice(each) for each in (ROLES, TOPICS, PLACES))
    return random.choice(
        [
            f"Pretend that you are {role}. Tell me what you know about {topic}.",
            f"You are {role} in {place}. Greet me and ask me three questions.",
            f"Imagine that you are {role}. How would you explain {topic} to your friends?",
            f"Act as {role} and answer in character: what is your opinion of {place}?",
        ]
    )


_MAKERS: tuple[Callable[[Random], str], ...] = (_sum, _story, _algebra, _list, _code, _explain, _write, _role)
