"""The program behind `train` and `predict`: the notes' network in torchnotes and in torch, for classes and numbers."""
