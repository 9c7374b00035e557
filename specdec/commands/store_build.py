"""Makes a store of texts, for drafters that look them up (docs/stores.md).

specdec store build my/notes output=notes.store                     # a text file, or a folder of them
specdec store build data.path=prompts.jsonl output=prompts.store    # the prompts of a set
specdec store build data.path=prompts.jsonl answers=true output=answers.store precision=bfloat16
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import transformers
from omegaconf import DictConfig

from specdec.commands.application import application
from specdec.commands.progress import shown
from specdec.errors import ConfigError
from specdec.foreign import foreign
from specdec.generator import SpeculativeGenerator
from specdec.places import check_writable, is_file, missing
from specdec.prompts.files import read_text
from specdec.stores import Store, Vocabulary, write
from specdec.stores.file import Tokens
from specdec.study.plan import Plan, check_source, plan


def _build(config: DictConfig) -> None:
    """Encodes or decodes the texts, and writes the store."""
    transformers.logging.set_verbosity_error()  # a text may be longer than the model's context
    job = plan(config)
    job.use_threads()
    with job.generator() as generator:
        source = _prompts(config, job, generator) if config.texts is None else _files(Path(config.texts), generator)
        vocabulary = Vocabulary.of_tokenizer(generator.loaded.model.vocab_size, generator.tokenizer)
        note = {"tokenizer": job.axes["target"], "texts": _about(config, job)}
        texts, began = list(source), perf_counter()
        store = Store.of(texts, vocabulary, config.order, note)
    if not store.num_tokens:
        raise ConfigError(f"{note['texts']} came out empty. Give texts, or prompts that have answers.")
    write(Path(config.output), store)
    size = Path(config.output).stat().st_size
    print(
        f"{config.output}: {store.num_texts} texts, {store.num_tokens} tokens, {size / store.num_tokens:.1f} bytes a "
        f"token; put in order and written in {perf_counter() - began:.1f} s."
    )


def _files(place: Path, generator: SpeculativeGenerator) -> Iterator[Tokens]:
    """The token ids of a text file, or of every one in a folder; there, files of other kinds are passed over."""
    files = _listed(place)
    passed = 0
    for file in shown(files, "texts"):
        try:
            text = read_text(file, "texts")
        except ConfigError:
            if file == place:
                raise
            passed += 1
            continue
        yield _encoded(text, generator)
    if passed:
        print(f"{passed} of {len(files)} files are no texts in UTF-8, and were passed over.")


def _listed(place: Path) -> list[Path]:
    """The file, or those of the folder in the order of their names, without hidden ones."""
    if not place.is_dir():
        return [place]
    inside = (path for path in place.rglob("*") if is_file(path))
    return sorted(path for path in inside if not any(part.startswith(".") for part in path.relative_to(place).parts))


def _prompts(config: DictConfig, job: Plan, generator: SpeculativeGenerator) -> Iterator[Tokens]:
    """Prompts as texts, or the target's answers to them."""
    texts = [record.prompt for record in job.source.load()]
    if not config.answers:
        for text in shown(texts, "prompts"):
            yield _encoded(text, generator)
        return
    prompts = [job.prompt([text], generator) for text in texts]
    for generation in generator.generate(prompts, job.params_of(range(len(prompts)))):
        yield np.array(generation.token_ids, np.int32)


def _encoded(text: str, generator: SpeculativeGenerator) -> Tokens:
    """A piece of text: no special tokens stand around it."""
    with foreign(ConfigError, "A text cannot be encoded", "Leave its file out."):
        return np.array(generator.tokenizer.encode(text, add_special_tokens=False), np.int32)


def _about(config: DictConfig, job: Plan) -> str:
    """What the texts are, for the note."""
    if config.texts is not None:
        return f"texts of {Path(config.texts).name}"
    return f"{'answers to the' if config.answers else 'the'} prompts of {job.axes['data']}"


def _check(config: DictConfig) -> None:
    """Raises ConfigError for what would be refused after minutes of work."""
    job = plan(config)
    check_writable("output", config.output)
    if config.texts is None:
        check_source(job.source)
        return
    if config.answers:
        raise ConfigError("answers=true takes prompts. Give them with data.path=… in place of texts.")
    place = Path(config.texts)
    if not place.is_dir() and not is_file(place):
        raise ConfigError(f"texts={config.texts!r}: there is nothing. {missing(place)} Give a text file or a folder.")


main = application("store_build", _build, _check, word="texts")
