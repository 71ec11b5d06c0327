"""All confidence bounds, under one roof: what holds for a distribution, given samples of it.

| bound | of | n | where |
|---|---|---|---|
| `mean_lower_bound` | the mean of scores in [0, 1] | `mixture`, `product`: any; `hoeffding`: fixed | `means` |
| `proportion_lower_bound` | a probability | fixed beforehand | `proportions` |
| `SequentialMean`, `SequentialProportion` | both | any, fed in chunks | `sequential` |
| `perpendicular_upper_bound` | the norm across the anchor | fixed, or any | `perpendicular` |

Each holds with probability ≥ 1 − alpha for every distribution and every n, with no approximation, and is never
rounded to the wrong side.
"""

from __future__ import annotations

from fsfast.bounds.means import MeanMethod, mean_lower_bound
from fsfast.bounds.perpendicular import perpendicular_upper_bound
from fsfast.bounds.proportions import proportion_lower_bound
from fsfast.bounds.sequential import SequentialMean, SequentialProportion

__all__ = [
    "MeanMethod",
    "SequentialMean",
    "SequentialProportion",
    "mean_lower_bound",
    "perpendicular_upper_bound",
    "proportion_lower_bound",
]
