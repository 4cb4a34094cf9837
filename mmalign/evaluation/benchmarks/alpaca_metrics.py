"""AlpacaEval's numbers, from preferences.

Rule    https://github.com/tatsu-lab/alpaca_eval, metrics/winrate.py and metrics/helpers.py
Tests   tests/evaluation/benchmarks/test_alpaca_eval.py
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmalign.evaluation.benchmarks.alpaca_records import Annotation
from mmalign.evaluation.paired import Direction, Ratio
from mmalign.evaluation.steps.scored import Metric


class Judged(NamedTuple):
    """An annotation of one instruction."""

    id: str
    annotation: Annotation

    @property
    def preference(self) -> float:
        """From 1 to 2; of those that have one."""
        assert self.annotation.preference is not None
        return self.annotation.preference


class LeaderboardRow(NamedTuple):
    """What AlpacaEval's leaderboard says of a model."""

    win_rate: float
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float


def leaderboard_row(preferences: Sequence[float]) -> LeaderboardRow:
    """Win rates and counts of a model.

    Args:
        preferences: From 1, the baseline's, to 2, the model's; those without are left out before.
    """
    wins = np.asarray(preferences) - 1
    num = len(wins)
    error = wins.std(ddof=1) / np.sqrt(num) * 100 if num > 1 else np.nan
    return LeaderboardRow(
        win_rate=float(wins.mean() * 100),
        standard_error=float(error),
        n_wins=int((wins > 0.5).sum()),
        n_wins_base=int((wins < 0.5).sum()),
        n_draws=int((wins == 0.5).sum()),
        n_total=num,
        discrete_win_rate=float(_discrete(wins).mean() * 100),
    )


def _discrete(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Who wins, however narrowly; a draw stays one."""
    return np.where(wins == 0.5, 0.5, np.round(wins))


def preference_metrics(runs: Sequence[Sequence[Judged]]) -> list[Metric]:
    """Win rates, and the shares won, lost and drawn; their official numbers are those of the leaderboard.

    Args:
        runs: Of the judge; one at least has something.
    """
    rows = [leaderboard_row([each.preference for each in run]) for run in runs if run]

    def metric(
        name: str, label: str, description: str, share: Callable[[NDArray[np.float64]], NDArray[Any]], **more: Any
    ) -> Metric:
        values = tuple(float(getattr(row, name)) for row in rows)
        ids, terms = _terms(runs, share)
        return Metric(
            name=name,
            label=label,
            description=description,
            ids=ids,
            terms=terms,
            official=float(np.mean(values)),
            runs=values if len(values) > 1 else (),
            **more,
        )

    outcome = {"group": "outcome"}
    return [
        metric("win_rate", "Win rate", "Mean preference for the model's answer; a draw is half.", _same, headline=True),
        metric(
            "discrete_win_rate", "Discrete win rate", "Share of the answers preferred, however narrowly.", _discrete
        ),
        metric("n_wins", "Wins", "Share of the answers preferred to the baseline's.", lambda x: x > 0.5, **outcome),
        metric(
            "n_wins_base",
            "Losses",
            "Share of the answers to which the baseline's is preferred.",
            lambda x: x < 0.5,
            direction=Direction.LOWER,
            **outcome,
        ),
        metric(
            "n_draws",
            "Draws",
            "Share of the answers as good as the baseline's.",
            lambda x: x == 0.5,
            direction=Direction.NEITHER,
            **outcome,
        ),
    ]


def _same(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    return wins


def _terms(
    runs: Sequence[Sequence[Judged]], share: Callable[[NDArray[np.float64]], NDArray[Any]]
) -> tuple[tuple[str, ...], Ratio]:
    """Sums over the runs of each instruction."""
    flat = [each for run in runs for each in run]
    shares = share(np.array([each.preference for each in flat]) - 1)
    place = {name: number for number, name in enumerate(dict.fromkeys(each.id for each in flat))}
    rows = [place[each.id] for each in flat]
    sums, counts = np.zeros(len(place)), np.zeros(len(place))
    np.add.at(sums, rows, shares)
    np.add.at(counts, rows, 1)
    return tuple(place), Ratio(sums, counts)


def dataset_metrics(runs: Sequence[Sequence[Judged]]) -> list[Metric]:
    """The win rate on each of the datasets that the instructions come from.

    Args:
        runs: Of the judge.
    """
    metrics = []
    for name in sorted({each.annotation.dataset for run in runs for each in run} - {""}):
        ids, terms = _terms([[each for each in run if each.annotation.dataset == name] for run in runs], _same)
        metrics.append(
            Metric(
                name=f"win_rate_{name}",
                label=name,
                description=f"Win rate on the instructions from {name}.",
                ids=ids,
                terms=terms,
                group="dataset",
            )
        )
    return metrics


def length_metric(lengths: Mapping[str, int]) -> Metric:
    """Characters of an answer.

    Args:
        lengths: Of each answer, whether or not the judge has a preference.
    """
    return Metric(
        name="avg_length",
        label="Characters an answer",
        description="Mean number of characters of an answer.",
        direction=Direction.NEITHER,
        percent=False,
        ids=tuple(lengths),
        terms=Ratio.mean(list(lengths.values())),
        official=float(int(np.mean(list(lengths.values())))),
    )
