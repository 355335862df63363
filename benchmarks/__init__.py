"""How fast, how exact and how frugal the operations are beside their rivals: `python -m torchnotes bench`."""
