"""The main job: plain and speculative decoding of the same prompts, interleaved, streamed and compared.

python -m experiments.generate drafter=ngram prompt="..."
python -m experiments.generate drafter=early_exit target.path=<folder, GGUF file or hub id>
"""

from specdec.cli import generate

if __name__ == "__main__":
    generate()
