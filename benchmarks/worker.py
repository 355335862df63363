"""Runs one case at one size. runner.py starts it as a separate process, so that cases do not share compiled code, heap
or threads.
"""

import importlib
import json
import sys

import torch

from . import results


def main() -> None:
    request = json.loads(sys.argv[1])
    device = torch.device(request["device"])
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    benchmark = importlib.import_module(f"{__package__}.bench_{request['benchmark']}")
    (case,) = (case for case in benchmark.CASES if case.name == request["case"])
    rows = case.measure(request["size"], device, request["repeats"])
    json.dump([results.rounded(row) for row in rows], sys.stdout)


if __name__ == "__main__":
    main()
