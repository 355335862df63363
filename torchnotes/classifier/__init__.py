"""The program behind `train` and `predict`: the notes' classifier, by torchnotes and by torch side by side."""
