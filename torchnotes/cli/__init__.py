"""The commands of python -m torchnotes. Each has `add_arguments(parser)`, `run(options)`, which returns the exit
status, and a docstring, whose first line the help shows. What they need beyond torch they import when they need it."""

COMMANDS = ("train", "predict", "bench", "signal", "check", "info")
