"""Measures the cost curve T(rows) of a target, and from which acceptance on a draft pays.

specdec profile [MODEL] [precisions=[float32,bfloat16,int8]] [gamma=5] [json=FILE]

Break-even α: the acceptance rate at which the expected tokens of a pass, (1 - α^(γ+1)) / (1 - α), equal T(γ+1)/T(1):
below it a free draft of γ tokens is slower than none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq

from specdec import checks
from specdec.analysis.theory import expected_tokens
from specdec.commands.application import application
from specdec.commands.progress import shown
from specdec.measure.environment import machine
from specdec.models.loading import check_options, load
from specdec.places import check_writable, write
from specdec.policy.cost import measure
from specdec.policy.curve import ROWS, CostCurve
from specdec.study.plan import check_model_path, values_of


def break_even(curve: CostCurve, gamma: int) -> float:
    """Smallest acceptance rate in [0, 1] at which a free draft of γ tokens does not slow decoding down."""
    price = curve(gamma + 1) / curve(1)
    if price <= 1.0:
        return 0.0
    if price >= gamma + 1:
        return 1.0
    return float(brentq(lambda alpha: expected_tokens(alpha, gamma) - price, 0.0, 1.0))


def _profile(config: DictConfig) -> None:
    """Measures, prints, writes what was asked for."""
    values = values_of(config)
    options = {**values["target"], "device": values["device"]["device"]}
    if config.device.threads is not None:
        torch.set_num_threads(config.device.threads)
    precisions = shown(values["precisions"], "precisions")
    curves = {dtype: measure(load(**options, dtype=dtype).model) for dtype in precisions}
    table = Table("precision", "T(1)", *(f"T({rows})/T(1)" for rows in ROWS[1:]), f"break-even α, γ = {config.gamma}")
    for dtype, curve in curves.items():
        ratios = [f"{curve(rows) / curve(1):.2f}" for rows in ROWS[1:]]
        table.add_row(dtype, f"{1e3 * curve(1):.1f} ms", *ratios, f"{break_even(curve, config.gamma):.2f}")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(machine(), soft_wrap=True)
    console.print(table)
    if config.json is not None:
        points = {dtype: {"rows": curve.rows, "seconds": curve.seconds} for dtype, curve in curves.items()}
        record = {"machine": machine(), "curves": points}
        write(Path(config.json), json.dumps(record, indent=1) + "\n")


def _check(config: DictConfig) -> None:
    check_model_path("target.path", values_of(config)["target"]["path"])
    checks.take("gamma", config.gamma, checks.whole(1, 1024))
    for dtype in config.precisions:
        check_options(dtype, None, "auto", config.device.device)
    check_writable("json", config.json)


main = application("profile", _profile, _check, word="target.path")
