"""One file per operation: fake kernels, autograd Functions with the derivation, and the public function."""
