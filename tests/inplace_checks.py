"""The checks of operations that can write over their input (`inplace=True`), beside those of checks.py."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from checks import OpChecks, assert_near, outcome, values
from layouts import LAYOUTS


class InplaceChecks(OpChecks):
    def test_inplace(self, dtype, device):
        for keywords in self.case.keywords:
            op, _, _ = self.functions(keywords)
            op_inplace, builtin_inplace, _ = self.functions({**keywords, "inplace": True})
            for layout in LAYOUTS:
                x = layout(values((2, 3, 5, 4), dtype, device))
                expected, version = op(x), x._version
                assert op_inplace(x) is x
                assert torch.equal(x, expected)
                assert x._version > version
                # with a graph: an intermediate result, and a view of one
                leaf, grad = values((2, 3, 5, 4), dtype, device), values((2, 3, 5, 4), dtype, device)
                if keywords.get("negative_slope", 0) < 0:
                    continue  # torch refuses the backward of these
                for select in (lambda t: t, lambda t: t[:, 1:]):
                    results = []
                    for function in (op_inplace, builtin_inplace):
                        leaf_ = leaf.clone().requires_grad_()
                        inner = layout(leaf_ * 1)
                        assert function(select(inner)).data_ptr() == select(inner).data_ptr()
                        results.append((inner.detach(), *torch.autograd.grad(inner, leaf_, grad)))
                    for ours, theirs in zip(*results, strict=True):
                        assert_near(ours, theirs, dtype)

    def test_inplace_at_every_length_leaves_the_neighbours_alone(self, dtype, device):
        keywords = self.case.keywords[-1]
        op, _, _ = self.functions(keywords)
        op_inplace, _, _ = self.functions({**keywords, "inplace": True})
        for n in (*range(1, 130), 1023, 32_771):
            memory = values((n + 2,), dtype, device)
            before, x = memory.clone(), memory[1:-1]
            expected = op(x)
            op_inplace(x)
            assert torch.equal(x, expected)
            assert torch.equal(memory[[0, -1]], before[[0, -1]])

    def test_inplace_under_transforms(self, device):
        op, _, _ = self.functions(self.case.keywords[0])
        op_inplace, _, _ = self.functions({**self.case.keywords[0], "inplace": True})
        x = self.smooth_values((4, 3), device)

        def on_a_copy(x):
            return op_inplace(x.clone())

        torch.testing.assert_close(torch.vmap(on_a_copy)(x), torch.vmap(op)(x))
        torch.testing.assert_close(torch.func.jvp(on_a_copy, (x,), (x,)), torch.func.jvp(lambda x: op(x), (x,), (x,)))
        torch.testing.assert_close(torch.func.jacrev(on_a_copy)(x), torch.func.jacrev(op)(x))
        x = x.requires_grad_()
        assert gradcheck(on_a_copy, x, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(on_a_copy, x)

    def test_inplace_where_torch_refuses_it(self, device):
        op_inplace, builtin_inplace, _ = self.functions({**self.case.keywords[0], "inplace": True})

        def made_in_no_grad() -> Tensor:
            with torch.no_grad():
                return (values((3, 4), torch.float32, device).requires_grad_())[1:]

        def inference() -> Tensor:
            with torch.inference_mode():
                return values((3, 4), torch.float32, device)

        refused: tuple[Callable[[], Tensor], ...] = (
            lambda: values((3, 4), torch.float32, device).requires_grad_(),  # a leaf
            lambda: values((3, 4), torch.float32, device).requires_grad_()[1:],  # a view of a leaf
            lambda: values((3, 1), torch.float32, device).expand(3, 4),  # an element in many places
            lambda: (values((3, 1), torch.float32, device).requires_grad_() * 1).expand(3, 4),
            lambda: (values((3, 4), torch.float32, device).requires_grad_() * 1).unbind()[0],  # one of several views
            made_in_no_grad,
            inference,
        )
        for make in refused:
            torch.manual_seed(2)
            x = make()
            kept = x.detach().clone()
            torch.manual_seed(2)
            expected = outcome(builtin_inplace, make())
            assert outcome(op_inplace, x)[0] is expected[0], expected
            assert torch.equal(x.detach(), kept), "nothing is written"
