"""Multi-round rejection over independent candidates (SpecInfer: Miao et al. 2024, Algorithm 2)."""

from __future__ import annotations

from specdec.verify.draws import IndependentDraws
from specdec.verify.nodewise import SuccessiveRejection


class MultiroundRule(SuccessiveRejection, IndependentDraws):
    """Every candidate is an independent draw from q."""

    name = "multiround"
