"""Our modules behave like torch.nn's of the same name when they are created, scripted, saved, called and converted."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import Tensor

import torchnotes
from conversion_checks import assert_same
from torchnotes import convert, revert
from torchnotes.ops.activations import ACTIVATIONS

X, VECTORS, IMAGES, VOLUMES = (
    torch.randn(s, dtype=torch.float64) for s in ((6, 3), (4, 3, 5), (4, 3, 5, 6), (2, 3, 2, 3, 4))
)
LOGITS, PROBABILITIES = torch.randn(6, 4, dtype=torch.float64), torch.rand(6, 4, dtype=torch.float64)
CLASSES, WEIGHT = torch.tensor([0, 3, 1, -100, 2, 1]), torch.tensor([1.0, 2.0, 3.0, 0.5])
PIXELS, CLASSES_OF_PIXELS = torch.randn(2, 4, 3, dtype=torch.float64), torch.tensor([[0, 3, 1], [1, 2, 2]])
REDUCTIONS = [{"reduction": reduction} for reduction in ("sum", "none")]
NORMS = (
    *({}, {"momentum": None}, {"momentum": 0.0}, {"momentum": 0.4}, {"eps": 0.1}, {"affine": False}, {"bias": False}),
    *({"track_running_stats": False}, {"track_running_stats": False, "affine": False, "momentum": None}),
)
CASES: list[tuple[str, dict, tuple[Tensor, ...]]] = [
    *((info.module, {}, (X,)) for info in ACTIVATIONS.values()),
    ("ReLU", {"inplace": True}, (X,)),
    *(("LeakyReLU", {"negative_slope": a, "inplace": i}, (X,)) for a, i in ((0.2, False), (0.2, True), (-0.3, False))),
    *((name, {"dim": dim}, (IMAGES,)) for name in ("Softmax", "LogSoftmax") for dim in (0, 1, -1)),
    *(("Linear", {"in_features": 3, "out_features": 4, **more}, (X,)) for more in ({}, {"bias": False})),
    *(("Dropout", {"p": p, "inplace": inplace}, (X,)) for p in (0.0, 1.0) for inplace in (False, True)),
    *(("MSELoss", more, (LOGITS, PROBABILITIES)) for more in ({}, *REDUCTIONS)),
    *(
        ("BCEWithLogitsLoss", more, (LOGITS, PROBABILITIES))
        for more in ({}, *REDUCTIONS, {"pos_weight": WEIGHT}, {"weight": WEIGHT}, {"size_average": False})
    ),
    *(
        ("CrossEntropyLoss", more, (LOGITS, CLASSES))
        for more in ({}, *REDUCTIONS, {"weight": WEIGHT, "label_smoothing": 0.1}, {"reduce": False})
    ),
    ("CrossEntropyLoss", {"label_smoothing": 0.1}, (PIXELS, CLASSES_OF_PIXELS)),
    ("CrossEntropyLoss", {"weight": WEIGHT}, (LOGITS, PROBABILITIES)),
    ("CrossEntropyLoss", {"ignore_index": 1}, (LOGITS, CLASSES.abs() % 4)),
    *(
        (f"BatchNorm{n}d", {"num_features": 3, **more}, (x,))
        for n, x in ((1, X), (1, VECTORS), (2, IMAGES), (3, VOLUMES))
        for more in NORMS
    ),
    *(("SyncBatchNorm", {"num_features": 3, **more}, (IMAGES,)) for more in NORMS),
    *((f"LazyBatchNorm{n}d", more, (x,)) for n, x in ((1, X), (2, IMAGES), (3, VOLUMES)) for more in NORMS),
]  # fmt: skip


def built(nn, name: str, options: dict) -> torch.nn.Module:
    torch.manual_seed(1)
    if name.startswith("Lazy"):
        return getattr(nn, name)(dtype=torch.float64, **options)
    module = getattr(nn, name)(**options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
@pytest.mark.parametrize(
    ("name", "options", "inputs"), CASES, ids=lambda one: str(one) if type(one) in (str, dict) else ""
)
def test_matches_torchs_module(name, options, inputs):
    theirs, become, ours = (built(nn, name, options) for nn in (torch.nn, torch.nn, torchnotes.nn))
    assert convert(become).replaced == {"": name}
    assert become.state_dict().keys() == ours.state_dict().keys()
    assert vars(become).keys() - {"_before_conversion"} == vars(ours).keys()
    for option in vars(ours).keys() - vars(theirs).keys():
        assert getattr(become, option) == getattr(ours, option)
    copies = [] if name.startswith("Lazy") else [copy.deepcopy(ours), pickle.loads(pickle.dumps(become))]
    for module in (ours, become, *copies):
        torchs = built(torch.nn, name, options)
        assert repr(module) == repr(torchs)
        assert isinstance(module, getattr(torchnotes.nn, name))
        assert isinstance(module, type(theirs)) or name == "SyncBatchNorm"
        for training in (True, True, False):
            assert_same(module.train(training), torchs.train(training), *inputs)
        assert repr(module) == repr(torchs)
        torch.testing.assert_close(module.state_dict(), torchs.state_dict())
        changed, before = inputs[0].clone(), inputs[0].clone()
        y, expected = module.train()(changed, *inputs[1:]), torchs.train()(before, *inputs[1:])
        assert torch.equal(changed, before) or torch.allclose(changed, before)  # written in place or not, like torch's
        assert (y is changed) == (expected is before)
        torchs.load_state_dict(module.state_dict())
        if hasattr(module, "reset_parameters") and "BatchNorm" in name:
            module.reset_parameters()
            torchs.reset_parameters()
            torch.testing.assert_close(module.state_dict(), torchs.state_dict())
    revert(become)
    assert type(become) is type(torchs)


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
def test_all_classes_of_torch_exist_and_use_our_operations():
    known = {name for name, cls in vars(torchnotes.nn).items() if isinstance(cls, type) and hasattr(torch.nn, name)}
    assert known - {"LinearCrossEntropyLoss"} == {name for name, *_ in CASES}
    for name, options, inputs in CASES:
        module, leaf = built(torchnotes.nn, name, options), inputs[0].clone().requires_grad_()
        y = module(leaf * 1, *inputs[1:])
        operation = {"SyncBatchNorm": "BatchNorm"}.get(
            name, name.removeprefix("Lazy").rstrip("123d").removesuffix("Loss")
        )
        assert operation in y.grad_fn.name() or options.get("p") == 0, name


MORE = {  # additional options, keyword-only
    "Linear": {"activation": None, "negative_slope": 0.01, "init": "torch"},
    "BCEWithLogitsLoss": {"label_smoothing": 0.0, "ignore_index": None},
    "CrossEntropyLoss": {
        "z_loss": 0.0,
        "logit_softcap": None,
        "empty": "nan",
        "inplace_backward": False,
        "process_group": None,
    },
}
OF_NORMS = {"activation": None, "negative_slope": 0.01, "inplace": False, "center_only": False}


@pytest.mark.parametrize("name", sorted({name for name, *_ in CASES} - {"SyncBatchNorm"}))
def test_signatures(name):
    ours, theirs = (list(inspect.signature(getattr(nn, name)).parameters.values()) for nn in (torchnotes.nn, torch.nn))
    more = ours[len(theirs) :]
    assert [(p.name, p.default, p.kind) for p in ours[: len(theirs)]] == [(p.name, p.default, p.kind) for p in theirs]
    assert {p.name: p.default for p in more} == (OF_NORMS if "Norm" in name else MORE.get(name, {}))
    assert all(p.kind is p.KEYWORD_ONLY for p in more)
