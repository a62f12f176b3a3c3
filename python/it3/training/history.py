"""What training came to."""

import math
from typing import TYPE_CHECKING, Any

from it3.support.tables import table_of

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 10
"""Rows at each end of a long table."""


class History:
    """What :meth:`it3.IT3Engine.fit` returns.

    Attributes
    ----------
    rows
        One dictionary an epoch: ``epoch``, from 1; ``loss``, ``loss_criterion`` and ``loss_ttt``, each the mean over
        the epoch's samples as they were when their batch came; ``score``, of the validation data with 0 steps of
        adaptation, nan without such data; ``lr``, the learning rate of the epoch's last step; and ``seconds``, of the
        training and the validation.
    metric
        The name of what ``score`` is; "" without validation data.

    Examples
    --------
    >>> history = engine.fit([(x, y)], F.mse_loss, epochs=2, validation=[(x, y)], metric="mse")
    >>> len(history.rows), history.metric
    (2, 'mse')
    >>> print(history)
    epoch  loss  criterion  loss_ttt  validation mse ...
    """

    def __init__(self, metric: str, higher_is_better: bool | None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.metric = metric
        self._higher_is_better = higher_is_better  # None where nobody said it, as of a function of the user's

    def __len__(self) -> int:
        """Return the number of epochs."""
        return len(self.rows)

    def to_frame(self) -> "pd.DataFrame":
        """Return the rows as a pandas.DataFrame, by epoch.

        Examples
        --------
        >>> history.to_frame().loc[2, "loss"] == history.rows[-1]["loss"]
        np.True_
        """
        import pandas as pd  # noqa: PLC0415  (only those who ask for it need it)

        return pd.DataFrame(self.rows).set_index("epoch")

    def __str__(self) -> str:
        """Write the table, of many epochs the first and the last, and which epoch had the best score."""
        rows: list[dict[str, Any] | None] = [*self.rows]
        if len(rows) > 2 * _SHOWN + 1:
            rows[_SHOWN:-_SHOWN] = [None]
        table = {
            "epoch": ["..." if row is None else str(row["epoch"]) for row in rows],
            "loss": [_number(row, "loss") for row in rows],
            "criterion": [_number(row, "loss_criterion") for row in rows],
            "loss_ttt": [_number(row, "loss_ttt") for row in rows],
            f"validation {self.metric}": [_number(row, "score") for row in rows],
            "lr": [_number(row, "lr") for row in rows],
            "seconds": ["" if row is None else f"{row['seconds']:.2f}" for row in rows],
        }
        return table_of(table.items(), texts=("epoch",)) + self._best()

    def _best(self) -> str:
        if self._higher_is_better is None or not self.rows:
            return ""
        sign = 1 if self._higher_is_better else -1
        best = max(self.rows, key=lambda row: sign * row["score"])
        return f"\n\nbest validation {self.metric}: {best['score']:.4g}, after epoch {best['epoch']}"


def _number(row: dict[str, Any] | None, name: str) -> str:
    return "" if row is None or math.isnan(row[name]) else f"{row[name]:#.4g}"
