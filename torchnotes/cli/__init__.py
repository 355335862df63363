"""The commands of python -m torchnotes.

Each has `add_arguments(parser)`, `run(options)`, which returns the exit status, and a docstring, whose first line
summarizes it in the help. Optional packages are imported only when they are needed.
"""

COMMANDS = ("train", "predict", "bench", "signal", "check", "info")
