"""The types of the public names. `make check` type-checks this file; it is never run."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import assert_type

import torchnotes
import torchnotes.functional as F
from torchnotes import nn, optim


def functions(x: Tensor, y: Tensor, weight: Tensor, generator: torch.Generator) -> None:
    assert_type(F.sigmoid(x), Tensor)
    assert_type(F.tanh(x), Tensor)
    assert_type(F.relu(x, inplace=True), Tensor)
    assert_type(F.leaky_relu(x, 0.1), Tensor)
    assert_type(F.softmax(x, 1), Tensor)
    assert_type(F.log_softmax(x, 1), Tensor)
    assert_type(F.linear(x, weight, activation="tanh"), Tensor)
    assert_type(F.batch_norm(x, None, None, training=True, activation="relu"), Tensor)
    assert_type(F.dropout(x, generator=generator), Tensor)
    assert_type(F.gaussian_dropout(x, sigma=0.1), Tensor)
    assert_type(F.gaussian_dropout_penalty(x, weight, 0.1), Tensor)
    assert_type(F.cross_entropy(x, y, z_loss=1e-4), Tensor)
    assert_type(F.linear_cross_entropy(x, weight, y), Tensor)
    assert_type(F.mse_loss(x, y), Tensor)
    assert_type(F.binary_cross_entropy_with_logits(x, y), Tensor)
    assert_type(F.pinball_loss(x, y, (0.1, 0.9)), Tensor)
    assert_type(torchnotes.init.glorot_uniform_(weight, generator=generator), Tensor)
    assert_type(torchnotes.init.initialize_(nn.MLP((2, 3)), "he", seed=0), torch.nn.Module)
    assert_type(optim.gradient_norm([x, y]), Tensor)
    assert_type(torchnotes.build_info(), str)


def modules(model: torch.nn.Module, batch: Tensor) -> None:
    module: torch.nn.Linear = nn.Linear(2, 3, activation="relu", init="he")
    norm: torch.nn.BatchNorm2d = nn.BatchNorm2d(3, activation="leaky_relu", inplace=True)
    loss: torch.nn.CrossEntropyLoss = nn.CrossEntropyLoss(label_smoothing=0.1, empty="zero")
    optimizer: torch.optim.Adam = optim.AdamW(module.parameters(), rounding="kahan", max_grad_norm=1.0)
    newton = optim.Newton(norm.parameters())
    assert_type(newton.step(lambda: loss(batch, batch)), Tensor)
    assert newton.report is not None
    assert_type(newton.report.reason, str)
    assert_type(str(torchnotes.convert(model)), str)
    assert_type(torchnotes.convert(model).replaced, dict[str, str])
    torchnotes.revert(model)
    assert_type(optim.SGD([batch]), optim.SGD)
    assert_type(optim.RMSprop([batch]), optim.RMSprop)
    assert_type(optim.Adam([batch]), optim.Adam)
    assert_type(optim.AdamW([batch]), optim.AdamW)
    assert_type(optim.AdamW([batch]).grad_norm, Tensor | None)
    assert_type(newton, optim.Newton)
    from_torch: torch.optim.Optimizer = optim.from_torch(optimizer)
    assert_type(from_torch.state_dict(), dict[str, Any])
    assert_type(torchnotes.signal.propagation(model, batch).layers[0].var_w, float)


def wrong_options(x: Tensor) -> None:
    F.linear(x, x, activation="gelu")  # type: ignore[arg-type]
    F.mse_loss(x, x, reduction="average")  # type: ignore[arg-type]
    nn.CrossEntropyLoss(reduction="sums")  # type: ignore[arg-type]
    nn.CrossEntropyLoss(empty="none")  # type: ignore[arg-type]
    nn.MLP((2, 3), "relu", init="kaiming")
    nn.MLP((2, 3), "relu", init="uniform")  # type: ignore[arg-type]
    torchnotes.init.initialize_(nn.Linear(2, 3), "torch")  # type: ignore[arg-type]
    torchnotes.init.glorot_normal_(x, mode="fan")  # type: ignore[arg-type]
    optim.SGD([x], rounding="up")  # type: ignore[arg-type]
    optim.Newton([x], method="lbfgs")  # type: ignore[arg-type]


def missing_names() -> None:
    """Unused ignores are errors."""
    print(nn.Conv2d)  # type: ignore[attr-defined]
    print(optim.LBFGS)  # type: ignore[attr-defined]
    print(F.conv2d)  # type: ignore[attr-defined]
    print(torchnotes.init.orthogonal_)  # type: ignore[attr-defined]
    print(nn.utils.clip_grad_norm_)  # type: ignore[attr-defined]
