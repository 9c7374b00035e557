"""Plain and speculative decoding, ours and transformers', on the same prompts, interleaved.

python -m benchmarks.decode [--data FILE --limit 26] [--repeats 3] [--max-tokens 64] [--output FILE]

Every repetition decodes every prompt with every contender, in an order that rotates. A contender's time is that of the
whole call, prefill included, because transformers does not report it apart. Ratios are against our own engine with the
drafter off, within the same repetition.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from specdec import EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.measure.environment import machine
from specdec.models.loading import LoadedModel, load
from specdec.models.sources import embedded_folder
from specdec.prompts import load_prompts
from specdec.prompts.subsets import choose

BASELINE = "specdec, plain"


@dataclass
class Contender:
    """One way to decode.

    Args:
        decode: prompt's token ids → output token ids, and the target passes that they took (0 if it does not tell).
    """

    decode: Callable[[list[int]], tuple[list[int], int]]
    seconds: list[float] = field(default_factory=list)
    """Per repetition, all prompts together."""
    tokens: int = 0
    passes: int = 0
    outputs: dict[int, list[int]] = field(default_factory=dict)


def ours(loaded: LoadedModel, drafter: str, max_tokens: int) -> Contender:
    """Our engine."""
    config = EngineConfig(num_blocks=256, prefix_cache=False)  # prompts come again and again
    generator = SpeculativeGenerator(loaded, drafter, config=config)

    def decode(prompt: list[int]) -> tuple[list[int], int]:
        [generation] = generator.generate([prompt], SamplingParams(max_tokens=max_tokens))
        return generation.token_ids, generation.stats.passes

    return Contender(decode)


def peer(module: PreTrainedModel, eos: int, max_tokens: int, **options: int) -> Contender:
    """transformers' own `generate`."""

    def decode(prompt: list[int]) -> tuple[list[int], int]:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            full = module.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=eos,
                **options,
            )
        return full[0, len(prompt) :].tolist(), 0

    return Contender(decode)


def measure(contenders: dict[str, Contender], prompts: Sequence[list[int]], repeats: int) -> None:
    """Fills in the contenders."""
    for contender in contenders.values():
        contender.decode(prompts[0][:16])
    for repeat in range(repeats):
        spent = dict.fromkeys(contenders, 0.0)
        for index, prompt in enumerate(prompts):
            names = list(contenders)
            turn = (repeat + index) % len(names)
            for name in names[turn:] + names[:turn]:
                began = perf_counter()
                output, passes = contenders[name].decode(prompt)
                spent[name] += perf_counter() - began
                contenders[name].tokens += len(output)
                contenders[name].passes += passes
                contenders[name].outputs[index] = output
        for name, seconds in spent.items():
            contenders[name].seconds.append(seconds)


def report(contenders: dict[str, Contender], num_prompts: int, repeats: int) -> str:
    """The result as a Markdown table."""
    base = contenders[BASELINE]
    lines = [
        f"{num_prompts} prompts, {repeats} repetitions, greedy, float32. {machine()}.",
        "",
        "| contender | ratio, median (range) | τ | tokens/s, median | same output as plain |",
        "|---|---|---|---|---|",
    ]
    for name, contender in contenders.items():
        ratios = [b / s for b, s in zip(base.seconds, contender.seconds, strict=True)]
        tau = f"{contender.tokens / contender.passes:.2f}" if contender.passes else "not reported"
        rate = contender.tokens / repeats / median(contender.seconds)
        same = sum(contender.outputs[index] == base.outputs[index] for index in base.outputs)
        lines.append(
            f"| {name} | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {tau} | {rate:.1f} "
            f"| {same}/{num_prompts} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and prints; writes the document if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="JSON lines; the four shipped prompts if left out")
    parser.add_argument("--limit", type=int, help="take only N prompts, evenly from all categories")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    loaded = load()
    module = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=torch.float32).eval()
    contenders = {
        BASELINE: ours(loaded, "none", args.max_tokens),
        "specdec, ngram": ours(loaded, "ngram", args.max_tokens),
        "transformers, plain": peer(module, loaded.eos[0], args.max_tokens),
        "transformers, prompt lookup": peer(module, loaded.eos[0], args.max_tokens, prompt_lookup_num_tokens=5),
    }
    records = choose(load_prompts(args.data), args.limit)
    chats = [[{"role": "user", "content": record.prompt}] for record in records]
    render = loaded.tokenizer.apply_chat_template
    texts = [render(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    prompts = [loaded.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    measure(contenders, prompts, args.repeats)
    table = report(contenders, len(prompts), args.repeats)
    print(table)
    if args.output is not None:
        command = shlex.join(["python", "-m", "benchmarks.decode", *sys.argv[1:]])
        args.output.write_text(f"# Decoding speed\n\n`{command}`\n\n{table}", encoding="utf-8")


if __name__ == "__main__":
    main()
