"""train a network on a table with torchnotes and with torch, and compare the two

The network consists of dense layers, each followed by batch normalization, an activation and Gaussian dropout. It
learns scikit-learn's digits or a column of a table: classes if the column has words or few whole numbers, else numbers.
Both versions start from the same parameters and see the same batches. The best state of the torchnotes version is saved
for `python -m torchnotes predict`.

Ctrl-C stops the training early and keeps the results; --resume continues after the last complete epoch. On the CPU, a
few steps are timed first to choose the number of threads, unless --threads or OMP_NUM_THREADS sets it.

`torchrun --nproc-per-node N -m torchnotes train` splits every batch among N processes.
"""

import argparse
import sys
from pathlib import Path

import torch

from .._bad_input import BadInput
from .._shell import command
from ..classifier.network import OPTIMIZERS
from ..classifier.program import Program
from ..classifier.ranks import Ranks, device_of_rank, launched, ranks_on
from ..classifier.threads import threads
from ..classifier.training import Progress
from ..init import SCHEMES
from ..ops.activations import ACTIVATIONS
from ._arguments import at_least, device, number_of_threads, positive, rate, scheme_name, seconds, share
from ._progress import progress
from ._report import page, summary
from ._understood import WIDTH, understood

TIMEOUT = 600  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, metavar="FILE", help="a table (.csv, .tsv, .txt), or a .npz of x and y (default: digits)")
    add("--target", metavar="COLUMN", help="the column to learn (default: the last)")
    add("--exclude", nargs="+", default=[], metavar="COLUMN", help="columns to leave out")
    add("--task", choices=("classification", "regression"), help="default: depends on the target")
    add("--loss", choices=("squared", "pinball"), help="of regression (default: squared)")
    add("--quantiles", type=share, nargs="+", metavar="Q", help="to learn with the pinball loss (default: 0.1 0.5 0.9)")
    add("--hidden", type=at_least(1), nargs="+", default=[128, 128], metavar="N", help="sizes of the hidden layers")
    add("--activation", choices=ACTIVATIONS, default="leaky_relu")
    schemes = ("torch", *SCHEMES)
    how = f"how the weights are initialized: {', '.join(schemes)} (default: he)"
    add("--init", type=scheme_name, choices=schemes, default="he", metavar="SCHEME", help=how)
    add("--noise", type=rate, metavar="P", help="rate of Gaussian dropout (default: 0.1, or 0 for regression)")
    add("--optimizer", choices=OPTIMIZERS, default="adam")
    add("--lr", type=positive, help="learning rate (default: depends on the optimizer)")
    add("--epochs", type=at_least(1), default=30, metavar="N")
    add("--batch-size", type=at_least(2), default=64, metavar="N")
    add("--device", type=device, default=torch.device("cpu"))
    add("--dtype", choices=("float32", "float64", "bfloat16"), default="float32")
    add("--seed", type=at_least(0), default=0, metavar="N")
    add("--compile", action="store_true", help="also train torch's version with torch.compile")
    add("--output", type=Path, default=Path("torchnotes-run"), metavar="FOLDER", help="for the report and the model")
    add("--resume", action="store_true", help="continue the training in that folder, with any number of processes")
    add("--threads", type=number_of_threads, metavar="N", help="number of CPU threads (default: the fastest)")
    add("--timeout", type=seconds, metavar="SECONDS", help="how long torchrun's processes wait for each other (600)")


def run(options: argparse.Namespace) -> int:
    if options.timeout and not launched():
        raise BadInput("--timeout requires several processes, started by torchrun")
    options.device = device_of_rank(options.device)
    options.lr = options.lr or OPTIMIZERS[options.optimizer][1]
    with ranks_on(options.device, options.timeout or TIMEOUT) as ranks, threads(torch.get_num_threads()):
        return train(options, ranks)


def train(options: argparse.Namespace, ranks: Ranks) -> int:
    program = Program(options, ranks)
    if ranks.first:
        print(understood(program.rows, program.parts))
        print(f"{'threads':<{WIDTH}}{options.threads}", flush=True)
    status, ending = program.train(progress(program) if ranks.first else Progress())
    if ranks.first and ending:
        print(ending, file=sys.stderr)
    if program.finished:
        report(program, ending)
    elif ranks.first:
        print("No epoch was completed, so there is nothing to report.", file=sys.stderr)
    return status


def report(program: Program, ending: str) -> None:
    results, difference = program.evaluate()
    if program.ranks.first:
        print(f"\n{summary(program, results, difference)}\n")
        text = page(program, results, difference, ending)
        program.report_path.write_text(text, encoding="utf-8", errors="replace")
        print(f"report  {program.report_path}")
        data = ("--data", program.options.data) if program.options.data else ()
        print(f"model   {program.model_path}")
        print(f"use it  {command('torchnotes', 'predict', program.model_path, *data)}")
