"""Layouts of a head's files, one module each."""

from specdec.heads.formats.base import Format
from specdec.heads.formats.block import BlockFormat
from specdec.heads.formats.eagle import EagleFormat
from specdec.heads.formats.eagle3 import Eagle3Format
from specdec.heads.formats.medusa import MedusaFormat
from specdec.heads.formats.own import OwnFormat
from specdec.heads.formats.speculators import SpeculatorsFormat

FORMATS: tuple[Format, ...] = (
    OwnFormat(),
    SpeculatorsFormat(),
    BlockFormat("dflash"),
    BlockFormat("dspark"),
    MedusaFormat(),
    Eagle3Format("specforge"),
    Eagle3Format("eagle3"),
    EagleFormat(),
)
"""In the order in which a config.json is shown to them."""
