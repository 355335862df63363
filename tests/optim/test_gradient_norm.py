"""gradient_norm"""

import pytest
import torch

from checks import threads
from torchnotes.optim import gradient_norm
from torchnotes.testing.layouts import LAYOUTS


def test_norm_of_all_numbers(dtype, device):
    tensors = [(torch.randn(n, dtype=torch.float64) * 10).to(device, dtype) for n in (*range(70), 100_003)]
    tensors += [torch.tensor(3.0).to(device, dtype), torch.randn(3, 4, 5).to(device, dtype)]
    exact = torch.cat([x.double().flatten() for x in tensors]).norm()
    norm = gradient_norm(iter(tensors))
    assert norm.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert norm.shape == ()
    rtol = 1e-14 if dtype == torch.float64 else 2.0**-24
    torch.testing.assert_close(norm.double(), exact, rtol=rtol, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, device):
    x = layout(torch.randn(2, 3, 5, 4, dtype=torch.float64, device=device))
    torch.testing.assert_close(gradient_norm([x, x]), 2**0.5 * torch.linalg.vector_norm(x))


def test_complex_numbers(device):
    x = torch.randn(5, 3, dtype=torch.complex64, device=device)
    torch.testing.assert_close(gradient_norm([x, x.conj()]), 2**0.5 * torch.linalg.vector_norm(x))


def test_squares_of_float32_neither_overflow_nor_underflow(device):
    for scale in (1e-30, 1e30):
        x = torch.full((1000,), scale, device=device)
        torch.testing.assert_close(gradient_norm([x]).item(), scale * 1000**0.5, rtol=1e-6, atol=0)


def test_nan_and_infinity(device):
    x = torch.ones(1000, device=device)
    for number in (torch.inf, torch.nan):
        x[500] = number
        torch.testing.assert_close(gradient_norm([x]).item(), abs(number), equal_nan=True)


def test_bits_do_not_depend_on_threads():
    tensors = [torch.randn(n) for n in (1, 300_000, 17, 100_000)]
    with threads(1):
        expected = gradient_norm(tensors)
    for count in (2, 3):
        with threads(count):
            assert torch.equal(gradient_norm(tensors), expected)


def test_opcheck(device):
    operator = torch.ops.torchnotes.gradient_norm.default
    for dtype in (torch.float32, torch.bfloat16, torch.complex64):
        torch.library.opcheck(operator, ([torch.randn(3, dtype=dtype, device=device)],))


def test_bad_arguments():
    assert gradient_norm([]) == torch.nn.utils.get_total_norm([])
    with pytest.raises(RuntimeError, match="one dtype and device"):
        gradient_norm([torch.ones(1), torch.ones(1, dtype=torch.float64)])
    with pytest.raises(RuntimeError, match="not implemented for 'Long'"):
        gradient_norm([torch.ones(1, dtype=torch.int64)])
