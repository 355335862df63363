"""Benchmarks of speed, accuracy and memory against alternatives: `python -m torchnotes bench`."""
