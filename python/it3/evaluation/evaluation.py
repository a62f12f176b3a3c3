"""What an evaluation came to: a table, and the gain of each variant beyond the best control."""

import math
import os
import statistics
import textwrap
from typing import TYPE_CHECKING, Any

from it3 import _C
from it3.evaluation.bootstrap import Bootstrap, Gain, holm
from it3.evaluation.metrics import Metric
from it3.evaluation.rows import BASE, Row
from it3.support.tables import table_of, without_empty

if TYPE_CHECKING:
    import pandas as pd

NAN = math.nan
_WIDTH = 120  # of a line of text


class Evaluation:
    """What :func:`it3.evaluate` found.

    Attributes
    ----------
    rows
        One dictionary a row, the controls first, then other methods, then the variants. Those of all rows: ``name``;
        ``score``, the mean over all runs' samples; ``sd``, the standard deviation of the runs' scores, nan for one run;
        ``gain``, ``low`` and ``high``, how much better it is than the same runs' 0 steps, above 0 for better, with its
        95 % interval; ``ece``, for accuracy the expected calibration error, the mean over runs, else nan; ``groups``,
        the score of each group by its label; ``worst`` and ``worst_group``, the worst of them, and its name, nan and ""
        without groups;
        ``milliseconds``, the median of a batch; and ``megabytes``, the 10^6 bytes that a batch takes at its peak beyond
        what was there before. The last two, and ``ece``, are nan for the reference.

        Of variants alone, else nan or "": ``beyond``, ``beyond_low`` and ``beyond_high``, how much better it is than
        :attr:`best_control`, with the interval of Holm's level; ``p``, the p-value of that gain, corrected by Holm for
        the number of variants; and ``verdict``: "helps" if the interval lies above 0, "worse" if below, else "no clear
        gain".
    best_control
        The name of the best of all rows that are no variants, by their scores.
    metric, higher_is_better
        The metric's name, and what its scores mean.
    counts
        How many samples each batch of each run has, [run][batch].

    Notes
    -----
    That the best control is chosen by the same data makes it look somewhat better than it is, which is hard on the
    variants rather than in their favor.

    Examples
    --------
    >>> evaluation = it3.evaluate(engine, [(x, y), (x + 1, y)], "mse", {"3 steps": {"num_steps": 3}})
    >>> [row["name"] for row in evaluation.rows][-1]
    '3 steps'
    """

    def __init__(self, rows: dict[str, Row], counts: list[list[int]], metric: Metric, bootstrap: Bootstrap) -> None:
        self.metric, self.higher_is_better, self.counts = metric.name, metric.higher_is_better, counts
        self._bootstrap = bootstrap
        self._places = {name: place for place, name in enumerate(rows)}
        self._sign = 1 if metric.higher_is_better else -1
        described = {name: self._describe(name, row, counts) for name, row in rows.items()}
        self._failures = {name: row.failure for name, row in rows.items() if row.failure}
        controls = [name for name, row in rows.items() if row.is_control and not row.failure]
        self.best_control = max(controls, key=lambda name: self._sign * described[name]["score"])
        variants = [name for name, row in rows.items() if not row.is_control]
        self._alike = {name for name in variants if rows[name].sums == rows[self.best_control].sums}
        p_values, levels = holm([self.compare(name, self.best_control).p for name in variants])
        self._beyond = {
            name: self.compare(name, self.best_control, 1 - level) for name, level in zip(variants, levels, strict=True)
        }
        for (name, beyond), p in zip(self._beyond.items(), p_values, strict=True):
            verdict = "helps" if beyond.low > 0 else "worse" if beyond.high < 0 else "no clear gain"
            described[name].update(
                beyond=beyond.value, beyond_low=beyond.low, beyond_high=beyond.high, p=p, verdict=verdict
            )
        self.rows = list(described.values())

    def compare(self, name: str, other: str, level: float = 0.95) -> Gain:
        """Return how much better a row is than another one, with an interval and a p-value.

        Networks are drawn with replacement, and so are batches, or what ``clusters`` says of them: see
        :class:`it3.evaluation.bootstrap.Bootstrap`. With one run of one batch there is nothing to draw: the interval is
        (nan, nan).

        Parameters
        ----------
        name, other
            Of two rows.
        level
            Of the interval.

        Raises
        ------
        KeyError
            For a row that does not exist.

        Examples
        --------
        >>> gain = evaluation.compare("3 steps", "0 steps")
        >>> gain.low <= gain.high
        True
        """
        for asked in (name, other):
            if asked not in self._places:
                raise KeyError(f"no row is called {asked!r}; the rows are {', '.join(map(repr, self._places))}")
        better, than = (self._places[asked] for asked in (name, other))
        if self._sign < 0:
            better, than = than, better
        return self._bootstrap.difference(better, than, level)

    @property
    def verdict(self) -> str:
        """Return a sentence on each variant, whether it is better than the best control, and on controls that failed.

        Examples
        --------
        >>> evaluation.verdict.split(":")[0]
        '3 steps'
        """
        return "\n".join(self._sentences())

    def to_frame(self) -> "pd.DataFrame":
        """Return the rows as a pandas.DataFrame, by name.

        Examples
        --------
        >>> evaluation.to_frame().loc["0 steps", "gain"]
        np.float64(0.0)
        """
        import pandas as pd  # noqa: PLC0415  (only those who ask for it need it)

        return pd.DataFrame(self.rows).set_index("name")

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write an HTML page: the verdict, the table, the gains drawn, the worst groups, and how to read it all.

        The page is one file, which needs no network and no JavaScript. It appears when it is complete; if it cannot be
        written, what was there stays. matplotlib draws the gains: ``pip install matplotlib``.

        Parameters
        ----------
        path
            Of the file to write or replace.

        Raises
        ------
        ModuleNotFoundError
            Without matplotlib.
        RuntimeError
            If the file cannot be written, as where there is no such folder, or the disk is full.

        Examples
        --------
        >>> evaluation.report("report.html")
        """
        from it3.evaluation.page import page  # noqa: PLC0415  (with Jinja, which others need not import)

        content = page(self)
        with _C.NewFile(path) as file:
            file.write(content)

    def _repr_html_(self) -> str:
        """Return the table and the verdict for a notebook."""
        from it3.evaluation.page import fragment  # noqa: PLC0415

        return fragment(self)

    def __str__(self) -> str:
        """Write the table and the verdict, whose sentences are broken into lines."""
        return "\n".join([table_of(self._columns()), "", *map(_broken, self._sentences())])

    def _columns(self) -> list[tuple[str, list[str]]]:
        """Return the titles and cells of the table's columns, without those that are empty."""
        columns = [
            ("", [row["name"] for row in self.rows]),
            (self.metric, [f"{row['score']:.4f}" for row in self.rows]),
            ("sd", [_unless_nan(row["sd"], ".4f") for row in self.rows]),
            ("gain", [_unless_base(row, f"{row['gain']:+.4f}") for row in self.rows]),
            ("95 % interval", [_unless_base(row, _interval(row["low"], row["high"])) for row in self.rows]),
            ("ECE", [_unless_nan(row["ece"], ".4f") for row in self.rows]),
            ("worst group", [f"{_unless_nan(row['worst'], '.4f')} {row['worst_group']}".strip() for row in self.rows]),
            ("ms", [_unless_nan(row["milliseconds"], ".2f") for row in self.rows]),
            ("MB", [_unless_nan(row["megabytes"], ".1f") for row in self.rows]),
        ]
        return without_empty(columns)

    def _sentences(self) -> list[str]:
        """Return those of the verdict."""
        of_variants = [self._verdict_of(row) for row in self.rows if row["name"] in self._beyond]
        return [*of_variants, *(f"{name}: failed; {why}" for name, why in self._failures.items())]

    def _describe(self, name: str, row: Row, counts: list[list[int]]) -> dict[str, Any]:
        of_runs = [sum(sums) / sum(of_run) for sums, of_run in zip(row.sums, counts, strict=True)]
        gain = self.compare(name, BASE)
        means = {group: total / count for group, (total, count) in row.by_group.items()}
        worst = min(means, key=lambda group: self._sign * means[group], default=None)
        return {
            "name": name,
            "score": sum(map(sum, row.sums)) / sum(map(sum, counts)),
            "sd": statistics.stdev(of_runs) if len(of_runs) > 1 and not row.failure else NAN,
            "gain": gain.value,
            "low": gain.low,
            "high": gain.high,
            "beyond": NAN,
            "beyond_low": NAN,
            "beyond_high": NAN,
            "p": NAN,
            "verdict": "",
            "ece": row.calibration_error,
            "groups": means,
            "worst": means[worst] if means else NAN,
            "worst_group": str(worst) if means else "",
            "milliseconds": row.milliseconds,
            "megabytes": row.megabytes,
        }

    def _verdict_of(self, row: dict[str, Any]) -> str:
        name = row["name"]
        best = BASE if self.best_control == BASE else f"'{self.best_control}'"
        if name in self._alike:
            beyond = f"the same {self.metric} as the best control, {best}, in every batch"
        else:
            beyond = f"{self.metric} {self._beyond[name]} against the best control, {best}"
        of_base = "" if self.best_control == BASE else f", and {self.compare(name, BASE)} against {BASE}"
        return f"{name}: {row['verdict']}; {beyond}{of_base}."


def _unless_base(row: dict[str, Any], text: str) -> str:
    return "" if row["name"] == BASE else text


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:+.4f} to {high:+.4f}"


def _unless_nan(value: float, how: str) -> str:
    return "" if math.isnan(value) else format(value, how)


def _broken(sentence: str) -> str:
    """Break a sentence into lines, between words alone, as names of rows are to be found again."""
    return textwrap.fill(
        sentence,
        _WIDTH,
        subsequent_indent="  ",
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
