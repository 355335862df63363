"""log_softmax."""

from generic import checked
from torchnotes.testing.operations.rows import ROWS


@checked(ROWS["log_softmax"])
def test_generic(check):
    check()
