"""Batch normalization: of a batch, and of the batches of all ranks."""
