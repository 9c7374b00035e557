"""All commands. Nothing is imported here, so that a wrong word in a shell costs nothing."""

COMMANDS = {
    "generate": ("specdec.commands.generate", "decode prompts with and without a drafter, and compare"),
    "study": ("specdec.commands.study", "run one such job, or a sweep of many, with a leaderboard"),
    "report": ("specdec.commands.report", "make the page of a study again, or compare two studies"),
    "plot": ("specdec.commands.plot", "write a figure of a study as PDF, SVG, PNG or CSV"),
    "table": ("specdec.commands.tabulate", "print the methods of a study as Markdown, LaTeX or CSV"),
    "answers": ("specdec.commands.answers", "write the answers of a study as Spec-Bench's files"),
    "replay": ("specdec.commands.replay", "judge recorded drafts with other rules; no model runs"),
    "profile": ("specdec.commands.profile", "measure what a pass of n rows costs"),
    "certify": ("specdec.commands.certify", "prove which rules are lossless, in fractions"),
    "store build": ("specdec.commands.store_build", "make a store of texts to draft from"),
    "store show": ("specdec.commands.store_show", "say what a store holds"),
    "head inspect": ("specdec.commands.head_inspect", "say what a trained head is, and whether it fits a target"),
    "layers search": ("specdec.commands.layers_search", "search for the sublayers that a draft can leave out"),
    "train": ("specdec.commands.train", "train a head for a target"),
    "serve": ("specdec.commands.serve", "answer OpenAI's API over HTTP"),
    "doctor": ("specdec.doctor", "show which kernels, caches and devices are in use here, and why"),
    "completion": ("specdec.commands.completion", "print a script that completes commands and keys in bash or zsh"),
}
"""Name, of one word or two → module with a function `main`, imported when the command is given; and what it does."""
