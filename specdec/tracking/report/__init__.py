"""The dashboard: one HTML page of a study's runs, which opens from a file and asks no network for anything."""

from specdec.tracking.report.page import render, write_report

__all__ = ["render", "write_report"]
