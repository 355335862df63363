"""torch.nn's batch normalization, computed by torchnotes, with torch's constructor, buffers and state_dict.

torch.jit reads annotations and knows no Literal, so attributes are plain strings, and what is passed on is not checked.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import functional as F
from .._docs import arguments_from
from ..ops.activations import Activation, checked_activation
from ._quantization import Unquantized
from ._repr import unusual_options

_DEFAULTS = dict(activation=None, negative_slope=0.01, inplace=False, center_only=False)


class _Options(torch.nn.modules.batchnorm._BatchNorm):
    """The options of functional.batch_norm that torch lacks, as attributes, and forward."""

    activation: str | None = None
    negative_slope: float = 0.01
    inplace: bool = False
    center_only: bool = False

    def _set_options(self, bias: bool, **options: Any) -> None:
        if not bias:
            self.register_parameter("bias", None)
        checked_activation(options["activation"])
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.num_batches_tracked is not None and self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the average over all batches
                momentum = 1.0 / float(self.num_batches_tracked)
        tracked = self.track_running_stats or not self.training
        return self._normalize(
            input,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            bool(self.training) or (self.running_mean is None and self.running_var is None),
            momentum,
            self.activation,
            self.negative_slope,
            self.inplace,
        )

    def _normalize(
        self,
        input: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        training: bool,
        momentum: float,
        activation: str | None,
        negative_slope: float,
        inplace: bool,
    ) -> Tensor:
        return F.batch_norm(
            input,
            mean,
            variance,
            self.weight,
            self.bias,
            training,
            momentum,
            self.eps,
            activation=activation,  # type: ignore[arg-type]
            negative_slope=negative_slope,
            inplace=inplace,
            center_only=self.center_only,
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + unusual_options(self, _DEFAULTS)


class _BatchNorm(_Options):
    qconfig = Unquantized()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
        inplace: bool = False,
        center_only: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self._set_options(
            bias, activation=activation, negative_slope=negative_slope, inplace=inplace, center_only=center_only
        )


@arguments_from(F.batch_norm)
class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """Normalizes vectors or sequences by :func:`~torchnotes.functional.batch_norm`.

    Args:
        num_features: The number of channels C.
        eps: Added to the variance.
        momentum: The share of the batch in the running statistics. None averages over all batches equally.
        affine: Whether there are a learnable scale, ``weight``, and shift, ``bias``, for each channel.
        track_running_stats: Whether to keep running statistics for the evaluation, which otherwise uses those of its
            batch.
        device, dtype: The device and dtype of the parameters and statistics.
        bias: Whether there is a learnable bias, if ``affine``.

    Shape:
        The input and the output are ``(N, C)`` or ``(N, C, L)``.

    Example:
        >>> nn.BatchNorm1d(1, activation="relu")(torch.tensor([[1.0], [3.0]])).flatten().tolist()
        [0.0, 0.999...]
    """


@arguments_from(BatchNorm1d)
class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """Normalizes images by :func:`~torchnotes.functional.batch_norm`.

    Shape:
        The input and the output are ``(N, C, H, W)``.

    Example:
        >>> nn.BatchNorm2d(3, activation="leaky_relu")(torch.randn(4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """


@arguments_from(BatchNorm1d)
class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    """Normalizes volumes by :func:`~torchnotes.functional.batch_norm`.

    Shape:
        The input and the output are ``(N, C, D, H, W)``.

    Example:
        >>> nn.BatchNorm3d(3)(torch.randn(4, 3, 2, 8, 8)).shape
        torch.Size([4, 3, 2, 8, 8])
    """


class _LazyBatchNorm(_Options):
    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
        inplace: bool = False,
        center_only: bool = False,
    ) -> None:
        super().__init__(eps, momentum, affine, track_running_stats, device, dtype)  # type: ignore[arg-type] # num_features comes later
        self._set_options(
            bias, activation=activation, negative_slope=negative_slope, inplace=inplace, center_only=center_only
        )


@arguments_from(BatchNorm1d)
class LazyBatchNorm1d(_LazyBatchNorm, torch.nn.LazyBatchNorm1d):
    """A :class:`~torchnotes.nn.BatchNorm1d` that infers the number of features from its first input.

    Example:
        >>> nn.LazyBatchNorm1d()(torch.randn(4, 3)).shape
        torch.Size([4, 3])
    """

    cls_to_become = BatchNorm1d


@arguments_from(BatchNorm1d)
class LazyBatchNorm2d(_LazyBatchNorm, torch.nn.LazyBatchNorm2d):
    """A :class:`~torchnotes.nn.BatchNorm2d` that infers the number of features from its first input.

    Example:
        >>> nn.LazyBatchNorm2d()(torch.randn(4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """

    cls_to_become = BatchNorm2d


@arguments_from(BatchNorm1d)
class LazyBatchNorm3d(_LazyBatchNorm, torch.nn.LazyBatchNorm3d):
    """A :class:`~torchnotes.nn.BatchNorm3d` that infers the number of features from its first input.

    Example:
        >>> nn.LazyBatchNorm3d()(torch.randn(4, 3, 2, 8, 8)).shape
        torch.Size([4, 3, 2, 8, 8])
    """

    cls_to_become = BatchNorm3d


@arguments_from(BatchNorm1d)
class SyncBatchNorm(_Options):
    """Normalizes over the batches of several ranks by :func:`~torchnotes.functional.sync_batch_norm`.

    Unlike :class:`torch.nn.SyncBatchNorm` it also works on the CPU and is differentiable to every order. It does not
    inherit from torch's, which DistributedDataParallel rejects on the CPU. In evaluation mode and without
    ``torch.distributed`` it is a plain batch normalization, like torch's.

    Args:
        process_group: The ranks, by default all.

    Shape:
        The input and the output are ``(N, C)`` or ``(N, C, ...)``.

    Example:
        >>> model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.MLP((4, 8, 2), batch_norm=True))
        >>> type(model[1]).__name__, model[1].activation
        ('SyncBatchNorm', 'relu')
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
        negative_slope: float = 0.01,
        inplace: bool = False,
        center_only: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.process_group = process_group
        self._set_options(
            bias, activation=activation, negative_slope=negative_slope, inplace=inplace, center_only=center_only
        )

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        if input.size(1) == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    @torch.jit.ignore  # scripted code calls the Python method, where self has no super()
    def _normalize(
        self,
        input: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        training: bool,
        momentum: float,
        activation: str | None,
        negative_slope: float,
        inplace: bool,
    ) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return _Options._normalize(
                self, input, mean, variance, training, momentum, activation, negative_slope, inplace
            )
        return F.sync_batch_norm(
            input,
            mean,
            variance,
            self.weight,
            self.bias,
            training,
            momentum,
            self.eps,
            self.process_group,
            activation=activation,  # type: ignore[arg-type]
            negative_slope=negative_slope,
            inplace=inplace,
            center_only=self.center_only,
        )

    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group: Any = None) -> torch.nn.Module:
        """Replaces every batch normalization in a module, of torch or torchnotes, by a SyncBatchNorm.

        Args:
            module: The module, which is changed.
            process_group: The ranks, by default all.

        Returns:
            The module, or the SyncBatchNorm that replaces it. Parameters, buffers and options are preserved.
        """
        converted = module
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
                raise ValueError(
                    f"{type(module).__name__} has not inferred its number of features yet: call it once before"
                )
            converted = cls(
                module.num_features,
                module.eps,
                module.momentum,
                affine=False,
                track_running_stats=False,
                process_group=process_group,
            )
            for name, default in _DEFAULTS.items():
                setattr(converted, name, getattr(module, name, default))
            converted.affine, converted.track_running_stats = module.affine, module.track_running_stats
            converted.weight, converted.bias = module.weight, module.bias
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(converted, name, getattr(module, name))
            converted.train(module.training)
        for name, child in module.named_children():
            converted.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return converted
