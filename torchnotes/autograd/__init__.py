"""What every operation stands on: the base class of autograd Functions, derivatives of compositions, fake kernels."""
