"""Every operation rejects tensors on different devices with torch's error, before it writes or allocates anything."""

import itertools

import pytest
import torch
import torch.nn.functional as torch_F

from checks import outcome
from torchnotes import functional as F
from torchnotes.optim.gradient_norm import gradient_norm

INDICES = torch.tensor([0, 2, 1, 0])
ROWS, CLASSES = (4, 3), (3,)
OPERATIONS = {
    "batch_norm": (lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, True), (ROWS, *[CLASSES] * 4)),
    "batch_norm in evaluation": (lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b), (ROWS, *[CLASSES] * 4)),
    "batch_norm in place": (
        lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, True, inplace=True),
        (ROWS, *[CLASSES] * 4),
    ),
    "cross_entropy": (F.cross_entropy, (ROWS, INDICES, CLASSES)),
    "cross_entropy of rows": (lambda x, t, w: F.cross_entropy(x, t, w, reduction="none"), (ROWS, INDICES, CLASSES)),
    "cross_entropy of probabilities": (F.cross_entropy, (ROWS, ROWS, CLASSES)),
    "linear": (F.linear, (ROWS, (5, 3), (5,))),
    "linear without a bias": (F.linear, (ROWS, (5, 3))),
    "linear with an activation": (lambda *args: F.linear(*args, activation="relu"), (ROWS, (5, 3), (5,))),
    "linear_cross_entropy": (
        lambda x, W, t, b, w: F.linear_cross_entropy(x, W, t, linear_bias=b, weight=w),
        (ROWS, (3, 3), INDICES, CLASSES, CLASSES),
    ),
    "mse_loss": (lambda x, y, w: F.mse_loss(x, y, weight=w), (ROWS, ROWS, ROWS)),
    "binary_cross_entropy_with_logits": (
        lambda x, y, w, p: F.binary_cross_entropy_with_logits(x, y, w, pos_weight=p, label_smoothing=0.1),
        (ROWS, ROWS, ROWS, CLASSES),
    ),
    "pinball_loss": (lambda x, y, w: F.pinball_loss(x, y, weight=w), (ROWS, ROWS, ROWS)),
    "gradient_norm": (lambda *tensors: gradient_norm(tensors), (CLASSES, CLASSES)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_rejects_tensors_on_different_devices(name, dtype):
    function, operands = OPERATIONS[name]
    for devices in itertools.product(("cpu", "meta"), repeat=len(operands)):
        tensors = [one.clone() if one is INDICES else torch.rand(one).to(dtype) for one in operands]
        given = [x.to(device) for x, device in zip(tensors, devices, strict=True)]
        versions = [x._version for x in given]
        if len(set(devices)) == 1:
            assert function(*given).device.type == devices[0]
            continue
        with pytest.raises(RuntimeError, match=r"Tensor on device \w+ is not on the expected device \w+!"):
            function(*given)
        assert [x._version for x in given] == versions
        assert all(x.is_meta or torch.equal(x, before) for x, before in zip(given, tensors, strict=True))


@pytest.mark.parametrize("wants_gradient", (False, True))
def test_class_weights_on_another_device_raise_torchs_error(wants_gradient):
    x, weight = torch.rand(ROWS, requires_grad=wants_gradient), torch.ones(3, device="meta")
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
    x = torch.rand(ROWS, device="meta")
    half = torch.tensor(0.5)
    for functional in (F, torch.nn.functional):
        assert functional.binary_cross_entropy_with_logits(x, x, half, pos_weight=half).is_meta
        assert functional.cross_entropy(x[0], torch.tensor(1)).is_meta
