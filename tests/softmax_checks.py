"""The checks of operations along a dimension, of which every element of a row depends on every other."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from checks import TOLERANCE, OpChecks, run, values
from layouts import LAYOUTS

HALF = (torch.bfloat16, torch.float16)
inf, nan = float("inf"), float("nan")


def rows_of_every_kind() -> Tensor:
    """Ordinary rows, rows of large logits, of -inf but for one, of huge and of tiny numbers."""
    ordinary = torch.randn(20, 1000, dtype=torch.float64)
    masked = torch.full((4, 1000), -inf, dtype=torch.float64)
    masked[range(4), (0, 500, 998, 999)] = torch.tensor([0.0, 5.0, -1e4, 1e4], dtype=torch.float64)
    scales = (1e-30, 1.0, 10.0, 100.0, 1e4)
    return torch.cat([*(ordinary * scale for scale in scales), ordinary + 1e4, ordinary - 1e4, masked])


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """In plain operations."""
    if x.numel() == 0:
        return x.clone()
    x = x - x.detach().amax(dim, keepdim=True)
    return x - x.exp().sum(dim, keepdim=True).log()


class SoftmaxChecks(OpChecks):
    builtin_takes_dual_numbers = False  # its reverse mode fails there
    # The kept output is rounded, by eps at most, and the gradient, a product with it, is wrong by as much times g.
    sample_tolerance: ClassVar = {
        dtype: dict(rtol=2 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps) for dtype in HALF
    }
    test_the_bits_do_not_depend_on_the_place_in_memory = None  # vectors begin elsewhere: sums are rounded otherwise

    def assert_agrees(self, keywords: dict, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Within some roundings of float64, relative to the greatest number that is summed or subtracted."""
        op, builtin, reference = self.functions(keywords)
        y, dx = run(op, x, grad)
        y64, dx64 = run(reference, x.double(), grad.double())
        y_builtin, dx_builtin = run(builtin, x, grad)
        rtol, _ = TOLERANCE[x.dtype]
        for ours, exact, scale in ((y, y64, x), (dx, dx64, grad)):
            scale = 1 + (scale.double().abs().max().item() if scale.numel() else 0)
            torch.testing.assert_close(ours.double(), exact.to(x.dtype).double(), rtol=2 * rtol, atol=2 * rtol * scale)
        assert y.stride() == y_builtin.stride()
        return dx, dx_builtin

    def builtin_of_sample(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Of bfloat16 and half the builtin rounds more often than at the end."""
        if x.dtype not in HALF or kwargs.get("dtype", x.dtype) not in HALF:
            return self.case.builtin(x, *args, **kwargs)
        return self.case.builtin(x, *args, **{**kwargs, "dtype": torch.float32}).to(kwargs.get("dtype", x.dtype))

    def test_every_dimension(self, dtype, device):
        for shape in ((7,), (1, 1), (40, 3), (2, 70, 5), (2, 3, 5, 33), (4, 1000), (3, 1, 129)):
            x, grad = values(shape, dtype, device), values(shape, dtype, device)
            for dim in range(-len(shape), len(shape)):
                self.assert_agrees({"dim": dim}, x, grad)

    @pytest.mark.parametrize("length", (1, 2, 15, 16, 17, 64, 65, 1000, 32_771, 70_000))
    def test_every_size_of_class_dimension(self, length, dtype, device):
        for rows in (1, 2, 33):
            self.assert_agrees({}, values((rows, length), dtype, device), values((rows, length), dtype, device))

    @pytest.mark.parametrize("n", (1, 5, 200))
    def test_special_values(self, n, dtype, device):
        """NaN and infinities make NaN of what they do in torch, and leave other rows alone."""
        x = values((12, n), dtype, device)
        for row, special in enumerate((nan, inf, -inf, 0.0, -0.0, 1e-42)):
            x[row, n // 2] = special
        x[6], x[7], x[8] = -inf, inf, nan
        for op, builtin, _ in map(self.functions, self.case.keywords):
            y, y_builtin = op(x), builtin(x)
            assert torch.equal(y.isnan(), y_builtin.isnan())
            assert torch.equal(y.isneginf(), y_builtin.isneginf())
            rtol = TOLERANCE[dtype][0]
            torch.testing.assert_close(y[9:], y_builtin[9:], rtol=4 * rtol, atol=4 * rtol)

    def test_error_is_not_above_the_builtins(self, dtype, device):
        op, builtin, reference = self.functions({})
        x = rows_of_every_kind().to(dtype)
        if dtype == torch.float64:  # there is no wider type at hand
            torch.testing.assert_close(op(x.to(device)), builtin(x.to(device)), rtol=1e-11, atol=1e-13)
            return
        grad = torch.randn_like(x)
        exact = run(reference, x.double(), grad.double())
        ours, theirs = run(op, x.to(device), grad.to(device)), run(builtin, x.to(device), grad.to(device))
        for mine, other, true in zip(ours, theirs, exact, strict=True):
            error, builtins = ((got.cpu().double() - true).abs().nan_to_num() for got in (mine, other))
            for kind in torch.arange(len(x)).split(20):
                # The one greatest of 20,000 errors is a matter of chance.
                one_rounding = torch.finfo(dtype).eps * true[kind].abs().nan_to_num(neginf=0).max()
                assert error[kind].max() <= 1.25 * builtins[kind].max() + one_rounding
                assert error[kind].mean() <= 1.1 * builtins[kind].mean() + 1e-3 * one_rounding

    @pytest.mark.parametrize("length", (3, 10, 17, 30, 48))
    def test_short_rows_err_no_more_than_the_builtins(self, length, device):
        """Of many rows the mean square is known to some hundredths. Short ones are added up across the vectors."""
        op, builtin, reference = self.functions({})
        x, grad = (torch.randn(4000, length) for _ in range(2))
        exact = run(reference, x.double(), grad.double())
        ours, theirs = run(op, x.to(device), grad.to(device)), run(builtin, x.to(device), grad.to(device))
        for mine, other, true in zip(ours, theirs, exact, strict=True):
            error, builtins = ((got.cpu().double() - true).square().mean().sqrt() for got in (mine, other))
            assert error <= 1.1 * builtins + 0.01 * torch.finfo(torch.float32).eps * true.abs().mean()

    def test_dtype_argument(self, device):
        x = values((3, 5), torch.bfloat16, device).requires_grad_()
        for dtype in (torch.float32, torch.float64):
            y, y_builtin = self.case.op(x, 1, dtype=dtype), self.case.builtin(x, 1, dtype=dtype)
            assert y.dtype == dtype
            torch.testing.assert_close(y, y_builtin)
            torch.testing.assert_close(*(torch.autograd.grad(z.pow(2).sum(), x) for z in (y, y_builtin)))
        integers = torch.arange(6, device=device).view(2, 3)
        assert torch.equal(
            self.case.op(integers, 1, dtype=torch.float32), self.case.builtin(integers, 1, dtype=torch.float32)
        )

    def test_arguments_that_torch_refuses_or_ignores(self, device):
        x = values((3, 5), torch.float32, device)
        for dtype in (np.ones(2), "float32", torch.int64):
            with pytest.raises(TypeError if not isinstance(dtype, torch.dtype) else RuntimeError):
                self.case.op(x, 1, dtype=dtype)
        assert torch.equal(self.case.op(x, 1, _stacklevel=None), self.case.op(x, 1))

    def test_a_dimension_that_is_not_there(self, device):
        x = values((3, 5), torch.float32, device)
        for dim in (2, -3):
            with pytest.raises(IndexError, match="Dimension out of range"):
                self.case.op(x, dim)

    def test_implicit_dimension_warns_as_in_torch(self, device):
        x = values((3, 5), torch.float32, device)
        with pytest.warns(UserWarning, match="Implicit dimension choice") as caught:
            y = self.case.op(x, None)
        assert torch.equal(y, self.case.builtin(x, 1))
        assert caught[0].filename == __file__.replace("softmax_checks", "ops/test_" + self.case.opinfo)

    def test_every_layout_along_every_dimension(self, dtype, device):
        for layout in LAYOUTS:
            x = layout(values((2, 3, 5, 4), dtype, device))
            for dim in range(4):
                self.assert_agrees({"dim": dim}, x, values((2, 3, 5, 4), dtype, device))
