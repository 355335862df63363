"""Training steps of third-party models, before and after torchnotes.convert and optim.from_torch.

python -m benchmarks.conversion [--repeats 21] [names]: medians (20th to 80th percentile) in ms, interleaved
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

import torchnotes

from .timing import Contender, interleave, percentiles

CPU = torch.device("cpu")
CONTENDERS = ("torch", "torchnotes", "torch compiled", "torchnotes compiled")
Inputs = dict[str, Tensor]


def resnet() -> tuple[torch.nn.Module, Inputs]:
    sizes = dict(embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 2, 2], layer_type="basic")
    return made("ResNet", "ForImageClassification", num_labels=10, **sizes), images()


def mobilenet() -> tuple[torch.nn.Module, Inputs]:
    return made("MobileNetV2", "ForImageClassification", num_labels=10), images()


def gpt2(dropout: float = 0.1) -> tuple[torch.nn.Module, Inputs]:
    sizes = dict(n_layer=4, n_embd=128, n_head=4, n_positions=64, vocab_size=1000, bos_token_id=0, eos_token_id=0)
    tokens = torch.randint(1000, (16, 64))
    model = made("GPT2", "LMHeadModel", resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, **sizes)
    model.loss_type = "ForCausalLM"  # the default, set explicitly to avoid a warning that breaks the graph
    return model, dict(input_ids=tokens, labels=tokens)


def bert(dropout: float = 0.1) -> tuple[torch.nn.Module, Inputs]:
    sizes = dict(num_hidden_layers=4, hidden_size=128, num_attention_heads=4, intermediate_size=512, vocab_size=1000)
    rates = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    inputs = dict(input_ids=torch.randint(1000, (16, 64)), labels=torch.randint(4, (16,)))
    return made("Bert", "ForSequenceClassification", num_labels=4, **sizes, **rates), inputs


def made(name: str, task: str, **options: Any) -> Any:
    return getattr(transformers, name + task)(getattr(transformers, name + "Config")(**options))


def images() -> Inputs:
    return dict(pixel_values=torch.randn(16, 3, 64, 64), labels=torch.randint(10, (16,)))


MODELS: dict[str, Callable[[], tuple[torch.nn.Module, Inputs]]] = {
    "ResNet": resnet,
    "MobileNetV2": mobilenet,
    "GPT-2": gpt2,
    "GPT-2 without dropout": lambda: gpt2(0.0),
    "BERT": bert,
    "BERT without dropout": lambda: bert(0.0),
}


def step_of(model: torch.nn.Module, inputs: Inputs, ours: bool, compiled: bool) -> Contender:
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    if ours:
        torchnotes.convert(model)
        optimizer = torchnotes.optim.from_torch(optimizer)
    call: Any = torch.compile(model) if compiled else model

    def step() -> Sequence[Tensor]:
        optimizer.zero_grad()
        loss = call(**inputs).loss
        loss.backward()
        optimizer.step()
        return (loss,)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conversion", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"some of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--repeats", type=int, default=21, metavar="N", help="samples of each contender")
    options = parser.parse_args()
    print("| training step, ms |", " | ".join(CONTENDERS), "| ratio | ratio compiled |")
    for name in options.names or MODELS:
        torch.manual_seed(0)
        torch._dynamo.reset()
        model, inputs = MODELS[name]()
        model.train()
        calls = {
            each: step_of(copy.deepcopy(model), inputs, each.startswith("torchnotes"), each.endswith("compiled"))
            for each in CONTENDERS
        }
        times = [
            percentiles(samples, 0.2, 0.5, 0.8) for samples in interleave(calls, CPU, "warm", options.repeats).values()
        ]
        eager, ours, compiled, ours_compiled = (median for _, median, _ in times)
        cells = (f"{1e3 * median:.1f} ({1e3 * p20:.1f} to {1e3 * p80:.1f})" for p20, median, p80 in times)
        print(f"| {name} |", " | ".join(cells), f"| {eager / ours:.2f} | {compiled / ours_compiled:.2f} |", flush=True)


if __name__ == "__main__":
    main()
