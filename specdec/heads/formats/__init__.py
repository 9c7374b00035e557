"""Layouts of a head's files, one module each."""

from specdec.heads.formats.base import Format
from specdec.heads.formats.own import OwnFormat

FORMATS: tuple[Format, ...] = (OwnFormat(),)
"""In the order in which a config.json is shown to them."""
