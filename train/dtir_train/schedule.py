"""Where a run stands at a step: how many there are, the learning rate, and when it settles."""

from __future__ import annotations

from dataclasses import dataclass

from dtir_train.configuration import Recipe


@dataclass(frozen=True)
class Schedule:
    """A recipe's epochs in steps.

    Attributes:
        steps: of the whole run, at least 1.
        constant_steps: before the learning rate begins to fall.
        settle_from: the first step of the settling, `steps` where there is none.
        learning_rate: before it falls.
    """

    steps: int
    constant_steps: int
    settle_from: int
    learning_rate: float

    @classmethod
    def of(cls, recipe: Recipe, steps_an_epoch: int) -> Schedule:
        """Converts a recipe's epochs for data of so many steps an epoch."""
        steps = max(1, round(recipe.epochs * steps_an_epoch))
        settle = round(recipe.settle_epochs * steps_an_epoch)
        constant = min(steps, round(recipe.constant_epochs * steps_an_epoch))
        return cls(steps, constant, steps - settle, recipe.learning_rate)

    def rate(self, step: int) -> float:
        """The learning rate of a step counted from 0: constant, then linear to 0 at the end."""
        if step < self.constant_steps:
            return self.learning_rate
        return self.learning_rate * (self.steps - step) / max(1, self.steps - self.constant_steps)

    def settles(self, step: int) -> bool:
        """Whether the transfer generator stands still at this step."""
        return step >= self.settle_from
