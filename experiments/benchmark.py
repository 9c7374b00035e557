"""The workhorse: a sweep over drafters, rules, γ, temperatures and data, with plain decoding beside every job.

python -m experiments.benchmark drafter=ngram
python -m experiments.benchmark -m drafter=none,ngram,early_exit rule=token,gumbel sampling=sample data.limit=26
python -m experiments.benchmark -m experiment=gamma launcher=joblib

Each job leaves a folder in runs/<study>/; one that is done is not run again, one that was killed goes on.
"""

from specdec.cli import benchmark

if __name__ == "__main__":
    benchmark()
