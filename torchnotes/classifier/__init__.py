"""The program behind `train` and `predict`: the notes' classifier in torchnotes and in torch."""
