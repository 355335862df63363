"""What tools of torch do with converted models and with our modules: the same as with torch's, or an error."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.ao import quantization

from torchnotes import convert, nn, revert

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:torch.ao.quantization is deprecated:DeprecationWarning",
    "ignore:Please use quant_min and quant_max",
    "ignore:must run observer",
    "ignore:_aminmax is deprecated",
    "ignore:torch.quantize_per_tensor",
)

X, IMAGES = torch.randn(5, 8), torch.randn(2, 3, 8, 8)


def dense() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()


def images() -> torch.nn.Module:
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.LeakyReLU(), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(4 * 36, 2)).eval()


def converted(model: torch.nn.Module, **options: bool) -> torch.nn.Module:
    assert convert(model, **options).fused
    return model


MODELS: dict[str, tuple[Callable[[], torch.nn.Module], Tensor]] = {
    "dense": (lambda: converted(dense()), X),
    "images": (lambda: converted(images()), IMAGES),
    "images in place": (lambda: converted(images(), inplace=True), IMAGES),
    "ours": (lambda: nn.MLP((8, 8, 2), batch_norm=True).eval(), X),
}


def loaded(save: Callable[[Any, io.BytesIO], None], load: Callable[[io.BytesIO], Any], model: Any) -> Any:
    file = io.BytesIO()
    save(model, file)
    file.seek(0)
    return load(file)


TOOLS: dict[str, Callable[[torch.nn.Module, Tensor], Any]] = {
    "script": lambda model, x: loaded(torch.jit.save, torch.jit.load, torch.jit.script(model)),
    "frozen script": lambda model, x: torch.jit.freeze(torch.jit.script(model)),
    "trace": lambda model, x: loaded(torch.jit.save, torch.jit.load, torch.jit.trace(model, x)),
    "export": lambda model, x: torch.export.export(model, (x,)).module(),
    "pickle": lambda model, x: pickle.loads(pickle.dumps(model)),
    "save": lambda model, x: loaded(torch.save, lambda file: torch.load(file, weights_only=False), model),
    "deepcopy": lambda model, x: copy.deepcopy(model),
    "fx": lambda model, x: torch.fx.symbolic_trace(model),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", MODELS)
def test_the_result_computes_the_same(name: str, tool: str):
    make, x = MODELS[name]
    model = make()
    torch.testing.assert_close(TOOLS[tool](copy.deepcopy(model), x)(x), model(x))


def prepared(prepare: Any, model: torch.nn.Module, qconfig: Any) -> torch.nn.Module:
    model.qconfig = qconfig
    return prepare(model)


QUANTIZE: dict[str, Callable[[torch.nn.Module], Any]] = {
    "dynamic": lambda model: quantization.quantize_dynamic(model),
    "dynamic, one class": lambda model: quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8),
    "dynamic, half": lambda model: quantization.quantize_dynamic(model, dtype=torch.float16),
    "static": lambda model: prepared(quantization.prepare, model, quantization.get_default_qconfig("x86")),
    "in training": lambda model: prepared(
        quantization.prepare_qat, model.train(), quantization.get_default_qat_qconfig("x86")
    ),
}


@pytest.mark.parametrize("quantize", QUANTIZE)
@pytest.mark.parametrize("name", MODELS)
def test_quantization_says_to_revert(name: str, quantize: str):
    """It would leave our modules as they are, without a word."""
    model = MODELS[name][0]()
    with pytest.raises(RuntimeError, match=r"does not quantize torchnotes\.nn\.\w+, .*torchnotes\.revert\(model\)"):
        QUANTIZE[quantize](model)
    assert not hasattr(model[-1], "qconfig")


@pytest.mark.parametrize("make", (dense, images))
def test_quantization_after_revert(make: Callable[[], torch.nn.Module]):
    x = X if make is dense else IMAGES
    model = converted(make())
    expected = model(x)
    revert(model)
    quantized = quantization.quantize_dynamic(model)
    assert type(quantized[-1]) is torch.ao.nn.quantized.dynamic.Linear
    assert (quantized(x) - expected).abs().max() < 0.2  # 8 bits
    ready = prepared(quantization.prepare, model, quantization.get_default_qconfig("x86"))
    ready(x)
    assert type(quantization.convert(ready)[-1]) is torch.ao.nn.quantized.Linear


def test_modules_that_torch_quantizes_by_their_class():
    """Those whose counterpart here would silently stay as it is. A dropout does nothing in either."""
    mappings = (
        quantization.get_default_static_quant_module_mappings(),
        quantization.get_default_qat_module_mappings(),
        quantization.get_default_dynamic_quant_module_mappings(),
    )
    theirs = {cls.__name__ for mapping in mappings for cls in mapping if getattr(torch.nn, cls.__name__, None) is cls}
    guarded = {name for name, cls in vars(nn).items() if isinstance(cls, type) and hasattr(cls, "qconfig")}
    assert theirs & vars(nn).keys() == {"Linear", "BatchNorm2d", "BatchNorm3d", "LeakyReLU", "Dropout"}
    assert theirs & vars(nn).keys() - {"Dropout"} <= guarded


def test_other_modules_may_be_quantized_next_to_ours():
    """A normalization is not what quantize_dynamic looks for."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), nn.BatchNorm1d(8), nn.LeakyReLU()).eval()
    quantized = quantization.quantize_dynamic(model)
    assert type(quantized[0]) is torch.ao.nn.quantized.dynamic.Linear
    assert (quantized(X) - model(X)).abs().max() < 0.2  # 8 bits


def test_prepared_modules_are_not_converted():
    model = prepared(quantization.prepare, dense(), quantization.get_default_qconfig("x86"))
    kept = convert(model).kept
    assert kept["0"] == kept["2"] == "Linear: prepared for quantization"


def test_fusing_for_quantization_requires_reverting():
    model = converted(dense())
    with pytest.raises(AssertionError, match=r"torchnotes\.conversion"):
        quantization.fuse_modules(model, ["0", "1"])
    revert(model)
    assert type(quantization.fuse_modules(model, ["0", "1"])[0]) is torch.ao.nn.intrinsic.LinearReLU
