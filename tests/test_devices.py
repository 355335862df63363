"""Every operation rejects tensors on different devices with torch's error, before it writes or allocates anything."""

import itertools

import pytest
import torch
import torch.nn.functional as torch_F

from checks import outcome
from torchnotes import functional as F
from torchnotes.optim.gradient_norm import gradient_norm
from torchnotes.testing import Operation
from torchnotes.testing.makers import normal
from torchnotes.testing.operation import described, tensors
from torchnotes.testing.operations import OPERATIONS
from torchnotes.testing.running import naming
from torchnotes.testing.values import every

INDICES = torch.tensor([0, 2, 1, 0])
CALLS = {name: (operation, every(operation)) for name, operation in OPERATIONS.items()}


def gradient_norm_of_two(input, other):
    return gradient_norm((input, other))


CALLS["gradient_norm"] = Operation(gradient_norm_of_two, None, {"input": normal, "other": normal}), ({},)


@pytest.mark.parametrize("name", CALLS)
def test_rejects_tensors_on_different_devices(name, dtype):
    operation, options = CALLS[name]
    for each in options:
        sample = operation.sample(each, operation.laid_out[-1], dtype)
        for devices in itertools.product(("cpu", "meta"), repeat=len(tensors(sample))):
            given = {n: x.detach().to(d, copy=True) for (n, x), d in zip(tensors(sample).items(), devices, strict=True)}
            versions = [x._version for x in given.values()]
            with naming(f"{devices}, {described(each)}"):
                if len(set(devices)) == 1:
                    assert operation.function(**sample | given).device.type == devices[0]
                    continue
                with pytest.raises(RuntimeError, match=r"Tensor on device \w+ is not on the expected device \w+!"):
                    operation.function(**sample | given)
                assert [x._version for x in given.values()] == versions
                assert all(x.is_meta or torch.equal(x, sample[n]) for n, x in given.items())


@pytest.mark.parametrize("wants_gradient", (False, True))
def test_class_weights_on_another_device_raise_torchs_error(wants_gradient):
    x, weight = torch.rand(4, 3, requires_grad=wants_gradient), torch.ones(3, device="meta")
    for cross_entropy in (F.cross_entropy, torch.nn.functional.cross_entropy):
        with pytest.raises(RuntimeError, match="Tensor on device meta is not on the expected device cpu!"):
            cross_entropy(x, INDICES, weight)


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("options", ({}, {"reduction": "none"}, {"label_smoothing": 0.1}), ids=str)
def test_meta_tensors_reject_mismatched_targets_and_class_weights(options):
    x, images = meta(4, 3), meta(4, 3, 2)
    indices = [meta(*shape, dtype=torch.int64) for shape in ((4,), (5,), (4, 3), (4, 1), ())]
    wrong = [(x, target) for target in (*indices[1:], meta(4), meta(3, 4), torch.tensor(1))]
    wrong += [(images, target) for target in indices]
    wrong += [(x, target, weight) for target in (indices[0], x) for weight in (meta(4), meta(3, 1))]
    wrong += [(meta(), indices[-1])]
    for arguments in wrong:
        ours, theirs = (outcome(f, *arguments, **options) for f in (F.cross_entropy, torch_F.cross_entropy))
        assert ours[0] is theirs[0], arguments


def test_meta_tensors_reject_mismatched_channels():
    x, numbers = meta(4, 3), [meta(3)] * 4
    wrong = [(x, *numbers[:i], meta(4), *numbers[i + 1 :], training) for i in range(4) for training in (False, True)]
    wrong += [(x, None, None), (x, meta(3), None), (x, None, meta(3))]
    wrong += [(meta(*shape), *numbers, training) for shape in ((3,), ()) for training in (False, True)]
    wrong += [(meta(), None, None, None, None, True)]
    for arguments in wrong:
        ours, theirs = (outcome(f, *arguments) for f in (F.batch_norm, torch_F.batch_norm))
        assert ours[0] is theirs[0], arguments
    with pytest.raises(RuntimeError, match="running_mean should contain 3 elements not 4"):
        F.batch_norm(x, meta(4), None, center_only=True)
    with pytest.raises(RuntimeError, match="weight should contain 3 elements not 4"):
        F.batch_norm(meta(1, 3), None, None, meta(4), training=True, center_only=True)
    versions = [t._version for t in numbers]
    F.batch_norm(x, *numbers)
    assert [t._version for t in numbers] == versions


def test_cpu_scalars_may_be_mixed_with_other_devices():
    x = torch.rand(4, 3, device="meta")
    half = torch.tensor(0.5)
    for functional in (F, torch.nn.functional):
        assert functional.binary_cross_entropy_with_logits(x, x, half, pos_weight=half).is_meta
        assert functional.cross_entropy(x[0], torch.tensor(1)).is_meta
