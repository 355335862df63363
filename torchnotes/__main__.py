"""python -m torchnotes train: the smallest real example, a network that learns to tell two spirals apart."""

import argparse

import torch

from . import nn, optim


def two_spirals(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n points on each of two interleaved spirals, and which spiral each is on."""
    angle = torch.linspace(0.5, 3, n) * torch.pi
    arm = torch.stack((angle * torch.cos(angle), angle * torch.sin(angle)), 1) / 10
    points = torch.cat((arm, -arm)) + 0.02 * torch.randn(2 * n, 2)
    return points, torch.arange(2).repeat_interleave(n).float()[:, None]


def train(steps: int, seed: int) -> float:
    """Train by gradient descent on the squared error; the share of the points told right."""
    torch.manual_seed(seed)
    x, y = two_spirals(500)
    model = torch.nn.Sequential(
        nn.Linear(2, 64, activation="leaky_relu", negative_slope=0.1),
        nn.Linear(64, 64, activation="tanh"),
        nn.Linear(64, 1, activation="sigmoid"),
    )
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = (model(x) - y).pow(2).mean()
        loss.backward()
        optimizer.step()
        if step % max(1, steps // 10) == 0:
            print(f"step {step:4d}  mean squared error {loss.item():.5f}")
    right = ((model(x) > 0.5) == (y > 0.5)).float().mean().item()
    print(f"{right:.1%} of the points told right")
    return right


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m torchnotes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train", help="train the example network")
    command.add_argument("--steps", type=int, default=500)
    command.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(args.steps, args.seed)


if __name__ == "__main__":
    main()
