"""How much memory and work a file may order before somebody has said that it may."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """A limit with the environment variable that raises it.

    Attributes:
        variable: its name.
        default: what holds where it is not set.
        unit: of both.
    """

    variable: str
    default: float
    unit: str

    @property
    def limit(self) -> float:
        """What holds now.

        Raises:
            ValueError: the variable is no positive number.
        """
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        try:
            found = float(text)
        except ValueError:
            found = -1.0
        if not found > 0:
            raise ValueError(f"wanted a positive number in {self.variable} ({self.unit}), got {text!r}")
        return found

    def check(self, amount: float, what: str) -> None:
        """Refuse more than the limit.

        Args:
            amount: in the budget's unit.
            what: needs it, for the message.

        Raises:
            ValueError: it names the limit and how to raise it.
        """
        if amount > self.limit:
            raise ValueError(
                f"{what} needs {amount:,.0f} {self.unit}, at most {self.limit:,.0f} are allowed; where you trust its "
                f"maker, set {self.variable}={amount * 1.1:.0f}"
            )


# Tensors of one row of a network at once; adm256, the largest of ours, takes a few hundred.
ROW_MEMORY = Budget("FSFAST_MAX_ROW_MB", 4096, "MB of memory")
# Multiplications of one row; adm256 takes a thousand or two.
ROW_WORK = Budget("FSFAST_MAX_ROW_GIGAPRODUCTS", 20_000, "billion multiplications")
