"""How much to draft: policies, and what a pass costs."""
