"""Softmax cross-entropy: of logits, of a linear layer, and of classes that are split among ranks."""
