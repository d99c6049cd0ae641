"""What there is to know of a table: how much of it fails, how much meets the bounds, and the front among that.

`PYTHONPATH=. python -m benchmarks.landscapes.facts` prints those of all cases, as README.md shows them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import spearmanr

from benchmarks.landscapes.cases import CASES, Case
from benchmarks.landscapes.tables import FOLDER, read_table

Rows = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one table.

    Attributes:
        size: Configurations.
        failed: Of these, by outcome other than measured.
        different: Measured, without those that another one equals in all metrics.
        allowed: Measured, and within all bounds.
        front: Different values of the objectives that are not dominated among the allowed, in order.
        agreement: Rank correlation of the two objectives over the allowed, both counted so that more is better.
    """

    size: int
    failed: Mapping[str, int]
    different: int
    allowed: int
    front: Sequence[tuple[float, ...]]
    agreement: float

    @property
    def measured(self) -> int:
        """Configurations that were measured at all levels."""
        return self.size - sum(self.failed.values())

    @property
    def reach(self) -> list[float]:
        """The largest value of each objective on the front, divided by the smallest."""
        return [max(map(abs, values)) / min(map(abs, values)) for values in zip(*self.front, strict=True)]


def facts(rows: Rows, objectives: Sequence[Mapping[str, Any]], constraints: Sequence[Mapping[str, Any]]) -> Facts:
    """The facts of a table, for two objectives and the constraints of its case file."""
    measured = [row for row in rows if row["outcome"] == "measured"]
    allowed = [row for row in measured if all(float(row[_column(bound)]) <= bound["max"] for bound in constraints)]
    values = [tuple(_signed(row, objective) for objective in objectives) for row in allowed]
    return Facts(
        len(rows),
        Counter(row["outcome"] for row in rows if row["outcome"] != "measured"),
        len({tuple(value for column, value in row.items() if "@" in column) for row in measured}),
        len(allowed),
        [here for here in sorted(set(values)) if not any(_dominates(there, here) for there in values)],
        spearman([first for first, _ in values], [second for _, second in values]),
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, with mean ranks for ties; not a number for fewer than two values."""
    return float(spearmanr(first, second).statistic) if len(first) > 1 else float("nan")


def likeness(one: Rows, other: Rows, column: str) -> float:
    """Rank correlation of a column in two tables of the same space, over what both measured."""
    pairs = [(float(here[column]), float(there[column])) for here, there in zip(one, other, strict=True) if here[column] and there[column]]
    return spearman([here for here, _ in pairs], [there for _, there in pairs])


def _column(entry: Mapping[str, Any]) -> str:
    return f"{entry['metric']}@{entry['at']}"


def _signed(row: Mapping[str, str], objective: Mapping[str, Any]) -> float:
    value = float(row[_column(objective)]) / (int(row["gpus"]) if objective.get("per") == "gpu" else 1)
    return value if objective["direction"] == "maximize" else -value


def _dominates(there: Sequence[float], here: Sequence[float]) -> bool:
    return there != here and all(mine >= other for mine, other in zip(there, here, strict=True))


def line(case: Case, rows: Rows) -> str:
    """A row of the table in README.md."""
    fact = facts(rows, case.objectives, case.constraints)
    failed = ", ".join(f"{count / fact.size:.0%} {outcome}" for outcome, count in sorted(fact.failed.items()))
    goals = ", ".join(f"{_column(goal)}{' per GPU' if 'per' in goal else ''}" for goal in case.objectives)
    bounds = ", ".join(f"{_column(bound)} <= {bound['max']:g}" for bound in case.constraints)
    reach = " and ".join(f"{factor:.2f}" for factor in fact.reach)
    return (
        f"| {case.name} | {fact.size} | {1 - fact.measured / fact.size:.0%} ({failed}) | {fact.different / fact.measured:.0%} | "
        f"{goals} | {bounds} | {fact.allowed / fact.size:.1%} | {len(fact.front)}, {reach} | {fact.agreement:+.2f} |"
    )


def main() -> None:
    """Prints the table, and how much the case with two sources of step times depends on them."""
    print("| case | size | fails | different | objectives | bounds | within | front | objectives' rank correlation |")
    print("|---" * 9 + "|")
    tables = {case.name: read_table(FOLDER / f"{case.name}.csv.gz") for case in CASES}
    for case in CASES:
        print(line(case, tables[case.name]))
    kernels, roofline = CASES[:2]
    columns = [_column(goal) for goal in (*kernels.objectives, *kernels.constraints)]
    ranks = ", ".join(f"{column} {likeness(tables[kernels.name], tables[roofline.name], column):.3f}" for column in columns)
    print(f"\nRank correlation between {kernels.name} and {roofline.name}: {ranks}")


if __name__ == "__main__":
    main()
