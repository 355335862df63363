"""train the notes' classifier with torchnotes and with torch, and compare the two

A network of dense layers, each with batch normalization, an activation and Gaussian dropout, learns to classify
scikit-learn's digits or the rows of a file. Both networks start from the same parameters and see the same batches. The
best state of ours is saved for `python -m torchnotes predict`. Ctrl-C stops the training early and keeps the results;
--resume continues after the last complete epoch. On the CPU, a few steps of temporary networks are timed first to
choose the number of threads, unless --threads or OMP_NUM_THREADS sets it.

`torchrun --nproc-per-node N -m torchnotes train` splits every batch among N processes.
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import torch

from .._bad_input import BadInput
from ..classifier.comparison import STATISTICS_APART
from ..classifier.network import OPTIMIZERS, TORCHS_ACTIVATIONS
from ..classifier.program import Options, Program
from ..classifier.ranks import device_of_rank, launched, ranks_on
from ..classifier.threads import threads
from ..classifier.training import Progress
from ..init import SCHEMES
from ._arguments import at_least, device, number_of_threads, positive, rate, seconds
from ._figures import check_available
from ._progress import progress
from ._report import page, summary

TIMEOUT = 600  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help="a .csv, its last column the class, or a .npz of x and y",
    )
    add("--hidden", type=at_least(1), nargs="+", default=[128, 128], metavar="N", help="sizes of the hidden layers")
    add("--activation", choices=TORCHS_ACTIVATIONS, default="leaky_relu")
    add("--init", choices=("torch", *SCHEMES), default="he", help="how the weights start")
    add("--noise", type=rate, default=0.1, metavar="P", help="the rate of Gaussian dropout")
    add("--optimizer", choices=OPTIMIZERS, default="adam")
    add("--lr", type=positive, help="the learning rate, if not the usual one of the optimizer")
    add("--epochs", type=at_least(1), default=30, metavar="N")
    add("--batch-size", type=at_least(2), default=64, metavar="N")
    add("--device", type=device, default=torch.device("cpu"))
    add("--dtype", choices=("float32", "float64", "bfloat16"), default="float32")
    add("--seed", type=at_least(0), default=0, metavar="N")
    add("--compile", action="store_true", help="also train torch's network with torch.compile")
    add("--output", type=Path, default=Path("torchnotes-run"), metavar="FOLDER", help="for the report and the model")
    add(
        "--resume",
        action="store_true",
        help="go on with the training of that folder, by as many processes as there are",
    )
    add("--threads", type=number_of_threads, metavar="N", help="to compute with, if not as many as are fastest")
    add("--timeout", type=seconds, metavar="SECONDS", help="of torchrun's processes for each other, if not 600")


def run(options: argparse.Namespace) -> int:
    if options.timeout and not launched():
        raise BadInput("--timeout is for processes that torchrun starts: there is but one")
    options.device = device_of_rank(options.device)
    options.lr = options.lr or OPTIMIZERS[options.optimizer][1]
    with ranks_on(options.device, options.timeout or TIMEOUT) as ranks, threads(torch.get_num_threads()):
        ranks.from_first(check_available)  # report missing packages before training
        program = Program(Options(**{field.name: vars(options)[field.name] for field in fields(Options)}), ranks)
        if ranks.first:
            learned, chosen, tested = program.counts
            print(f"{program.rows.source}: {learned} rows to learn from, {chosen} to choose by, {tested} to test")
            print(f"threads: {program.options.threads}")
        status, ending = program.train(progress(*program.extent) if ranks.first else Progress())
        if ranks.first and ending:
            print(ending, file=sys.stderr)
        if program.learned:
            report(program, ending)
        elif ranks.first:
            print("Nothing has been learned yet, so that there is nothing to report.", file=sys.stderr)
    return status


def report(program: Program, ending: str) -> None:
    results, difference = program.judge()
    if not program.ranks.first:
        return
    options, ranks, files = program.options, program.ranks, program.files
    remark = STATISTICS_APART if ranks.size > 1 and options.device.type == "cpu" else ""
    print(f"\n{summary(results, difference, remark)}\n")
    text = page(program.rows, options, program.networks, results, difference, remark, ending, ranks.size)
    files.report.write_text(text, encoding="utf-8", errors="replace")
    print(f"report  {files.report}\nmodel   {files.model}: python -m torchnotes predict {files.model}")
