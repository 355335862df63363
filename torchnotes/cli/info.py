"""print how torchnotes was built and which kernels it uses"""

import argparse

from .._native import build_info


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> int:
    print(build_info())
    return 0
