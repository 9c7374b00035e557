"""Paired measurements. Each module names the command that runs it and the document that it writes."""
