"""Runs one case at one size. runner.py starts it as a separate process, so that cases do not share compiled code, heap
or threads.
"""

import json
import sys

import torch

from . import results
from .cases import BENCHMARKS


def main() -> None:
    request = json.loads(sys.argv[1])
    device = torch.device(request["device"])
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    (case,) = (case for case in BENCHMARKS[request["benchmark"]]() if case.name == request["case"])
    rows = case.measure(request["size"], device, request["repeats"])
    json.dump([results.rounded(row) for row in rows], sys.stdout)


if __name__ == "__main__":
    main()
