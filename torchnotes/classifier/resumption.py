"""Saves the state of a training after an epoch, so that it can be resumed with the same results."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .._bad_input import BadInput
from .data import Rows
from .files import read, understood, write
from .options import Options
from .training import Contender, Epoch, bare

FORMAT = "torchnotes training 1"
KIND = "a training"
DEFINING = ("hidden", "activation", "init", "noise", "optimizer", "lr", "batch_size", "dtype", "seed", "compile")

State = dict[str, Any]


def definition(rows: Rows, options: Options) -> State:
    """The data and the options that identify a training."""
    return {"rows": rows.digest(), **{name: getattr(options, name) for name in DEFINING}}


def save(path: Path, defined: State, contenders: list[Contender]) -> None:
    states = {c.name: state_of(c) for c in contenders}
    write(path, FORMAT, {"definition": defined, "contenders": states, "threads": torch.get_num_threads()})


def load(path: Path, defined: State, epochs: int) -> tuple[State, int | None]:
    """The states of the contenders, which have completed fewer epochs, and the number of threads that computed them."""
    if not path.exists():
        raise BadInput(f"{path}: there is no training to resume")
    found = read(path, FORMAT, KIND)
    with understood(path, KIND):
        was, states = found["definition"], found["contenders"]
        differing = [name for name in defined if was[name] != defined[name]]
        if "rows" in differing:
            raise BadInput(f"{path} is of a training with other data")
        if differing:
            options = "; ".join(f"{option(name, was[name])}, not {shown(defined[name])}" for name in differing)
            raise BadInput(f"{path} is of a training with {options}")
        done = min(len(state["epochs"]) for state in states.values())
        if done >= epochs:
            raise BadInput(f"{path} has {done} epochs behind it: --epochs has to be more")
        return states, found.get("threads")


def option(name: str, value: Any) -> str:
    return f"--{name.replace('_', '-')} {shown(value)}"


def shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def state_of(contender: Contender) -> State:
    return {
        "model": bare(contender.model).state_dict(),
        "optimizer": contender.optimizer.state_dict(),
        "epochs": [asdict(epoch) for epoch in contender.epochs],
        "best_loss": contender.best_loss,
        "best_state": contender.best_state,
    }


def restore(contender: Contender, state: State) -> None:
    bare(contender.model).load_state_dict(state["model"])
    contender.optimizer.load_state_dict(state["optimizer"])
    contender.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
    contender.best_loss = state["best_loss"]
    contender.best_state = state["best_state"]
