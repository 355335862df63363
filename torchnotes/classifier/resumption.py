"""Saves the state of a training after an epoch, so that it can be resumed with the same results."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .._bad_input import BadInput
from .data import Rows
from .files import parsing, read, write
from .training import Contender, Epoch, unwrapped

FORMAT = "torchnotes training 2"
KIND = "a training"
# The options that must not change
OF_DATA = ("target", "task", "loss", "quantiles", "exclude")
FIXED = ("hidden", "activation", "init", "noise", "optimizer", "lr", "batch_size", "dtype", "seed", "compile", *OF_DATA)

State = dict[str, Any]


def definition(rows: Rows, options: Namespace) -> State:
    """Identifies a training by its data and options."""
    return {"rows": rows.digest(), **{name: getattr(options, name) for name in FIXED}}


def save(path: Path, definition: State, contenders: list[Contender]) -> None:
    states = {
        contender.name: {
            "model": unwrapped(contender.model).state_dict(),
            "optimizer": contender.optimizer.state_dict(),
            "epochs": [asdict(epoch) for epoch in contender.epochs],
            "best_loss": contender.best_loss,
            "best_state": contender.best_state,
        }
        for contender in contenders
    }
    write(path, FORMAT, {"definition": definition, "contenders": states, "threads": torch.get_num_threads()})


def load(path: Path, definition: State, epochs: int) -> tuple[State, int | None]:
    """The states of the contenders, which have completed fewer epochs, and the number of threads that computed them."""
    if not path.exists():
        raise BadInput(f"{path}: there is no training to resume")
    content = read(path, FORMAT, KIND)
    with parsing(path, KIND):
        before, states = content["definition"], content["contenders"]
        changed = [name for name in definition if before[name] != definition[name]]
        if "rows" in changed and not set(changed) & set(OF_DATA):
            raise BadInput(f"{path} is of a training with other data")
        if changed:
            options = (
                f"--{name.replace('_', '-')} {_text(before[name])}, not {_text(definition[name])}"
                for name in changed
                if name != "rows"
            )
            raise BadInput(f"{path} is of a training with {'; '.join(options)}")
        completed = min(len(state["epochs"]) for state in states.values())
        if completed >= epochs:
            raise BadInput(f"{path} has completed {completed} epochs: --epochs must be larger")
        return states, content.get("threads")


def _text(value: Any) -> str:
    if value is None or value == []:
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def restore(contender: Contender, state: State) -> None:
    unwrapped(contender.model).load_state_dict(state["model"])
    contender.optimizer.load_state_dict(state["optimizer"])
    contender.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
    contender.best_loss = state["best_loss"]
    contender.best_state = state["best_state"]
