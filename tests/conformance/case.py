"""A call of our function and of torch's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from .outcome import Outcome, difference, observe
from .programs import Program
from .samples import Sample


@dataclass(frozen=True)
class Case:
    name: str
    call: str  # a description of the arguments
    ours: Callable
    theirs: Callable
    sample: Sample
    program: Program
    reference: Callable | None = None  # computes the exact result in float64; by default torch's function

    def difference(self) -> str | None:
        """What is wrong with ours, or None."""
        ours, theirs = self._outcome(self.ours), self._outcome(self.theirs)
        wrong = difference(ours, theirs, cache(self._exact))
        if wrong and wrong.startswith("silent") and self._is_random():
            return difference(ours, theirs, cache(self._exact), noise=True)
        return wrong

    def _outcome(self, function: Callable, sample: Sample | None = None) -> Outcome:
        return observe(lambda: self.program(function, (sample or self.sample).fresh()))

    def _exact(self) -> Outcome | None:
        dtypes = {self.sample.leaves[i].dtype for i in self.sample.floating()}
        if self.reference is None and dtypes <= {torch.float64, torch.complex64, torch.complex128}:
            return None
        return self._outcome(self.reference or self.theirs, self.sample.cast(torch.float64))

    def _is_random(self) -> bool:
        """Whether torch's result depends on the state of the random generator."""

        def after_a_draw(*args: object, **kwargs: object) -> object:
            torch.rand(())
            return self.theirs(*args, **kwargs)

        return difference(self._outcome(after_a_draw), self._outcome(self.theirs)) is not None
