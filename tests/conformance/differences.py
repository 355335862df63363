"""What differs from torch on purpose, or cannot be helped: a pattern of `case: difference`, and the reason."""

DIFFERENCES: dict[str, str] = {
    "cross_entropy.*: accepted: .*'nll_loss_forward' is not differentiable": "torch has no gradient of class weights",
    "with_logits.*: accepted: .* is not differentiable": "torch has no gradient of weights",
    "accepted: .* ZeroTensors are immutable": "torch's second derivative fails on zero tangents",
    "(tanh|sigmoid).*TypeError: .* AttributeError: .* object has no": "torch.tanh and torch.sigmoid raise it too",
    r"cross_entropy.* is 0, torch's -0$": "the sign of a loss of zero",
    r"cross_entropy.* vmap .*: accepted: .* gather\(\): Expected dtype": "torch has no vmap over class weights",
    "linearized .*: form: type of tangent Tensor, torch's Parameter": "a tangent that is constant to torch",
    "with_logits.* dual 3.*: form: tangent is a Tensor, torch's None": "torch has no tangent of weights",
    "batch_norm.* -?inf@3 ": "an infinite weight is multiplied in another order",
    "batch_norm.* float64 all 3e.38 ": "the variance of equal numbers is zero; torch's is their rounding",
    "optimizers .* accepted: .*`fused=True` requires": "a fused step of ours takes complex parameters",
    "optimizers .* accepted: .*mutable TensorLists": "torch's fused steps refuse such views",
    "optimizers .* weight_decay=True .* accepted": "it counts as 1, with and without maximize",
    "optimizers .* foreach=tensor.* accepted": "every step of ours is one call, and foreach has no effect",
    "optimizers .* decoupled_weight_decay=tensor.* rejected": "torch raises it too, once weight_decay is not zero",
    "with_logits.*-inf.*torch's nan": "a logit of -inf has an infinite loss, where torch subtracts infinities",
}
