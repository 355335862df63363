"""classify data with a network that `train` has saved

Prints the predicted class of each row and its probability, and the accuracy if the data contain the true classes. A
digits classifier reads the digits by default, including those that it was trained on; others require --data.
"""

import argparse
import csv
import sys
from pathlib import Path

import torch

from .._bad_input import BadInput
from ..classifier.checkpoint import load
from ..classifier.data import DIGITS
from ..classifier.data import load as load_data
from ._arguments import device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="the model.pt that train has saved")
    parser.add_argument("--data", type=Path, metavar="FILE", help="as for train, but the classes may be missing")
    parser.add_argument("--device", type=device, default=torch.device("cpu"))


def run(options: argparse.Namespace) -> int:
    checkpoint = load(options.model)
    if options.data is None and checkpoint.source != DIGITS:
        raise BadInput(f"{options.model} was trained on {checkpoint.source}: --data is required")
    rows = load_data(options.data, checkpoint.design.sizes[0], checkpoint.classes)
    probabilities, classes = checkpoint.logits(rows.x, options.device).double().softmax(1).max(1)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("class", "probability"))
    for number, probability in zip(classes.tolist(), probabilities.tolist(), strict=True):
        writer.writerow((checkpoint.classes[number], f"{probability:.4f}"))
    if rows.y is not None:
        correct = (classes.cpu() == rows.y).sum().item()
        print(f"accuracy {correct / len(rows.x):.2%} ({correct} of {len(rows.x)} rows)", file=sys.stderr)
    return 0
