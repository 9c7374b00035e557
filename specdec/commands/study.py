"""Runs a sweep over drafters, rules, γ, temperatures and data, with plain decoding beside every job.

specdec study drafter=ngram
specdec study -m drafter=none,ngram,early_exit rule=token,gumbel sampling=sample data.limit=26
specdec study -m experiment=gamma launcher=joblib

Each job leaves a folder in runs/<study>/; one that is done is not run again, one that was killed goes on.
"""

from specdec.commands.application import application
from specdec.study import sweep

main = application("study", sweep.job, sweep.check, told=("jobs", "command", "ledger"), begin=sweep.plan_all)
