"""Reads a table from its file, and tells in one line what is wrong with it: file, line, column, what to do."""

from __future__ import annotations

import hashlib
import io
import math
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tuner.benchmark.measurement import METRICS
from tuner.errors import ConfigError
from tuner.explain import nearest, show
from tuner.launch import Value
from tuner.replay.table import LOAD, MEASURED, MEMORY_STAGES, Column, Row, Table
from tuner.replay.values import MISSING, parse, same

if TYPE_CHECKING:
    import pandas as pd

OUTCOME, REASON, DEPLOY, WARM_UP, GPUS = "outcome", "reason", "deploy_s", "warmup_s", "gpus"
OWN = (OUTCOME, REASON, DEPLOY, WARM_UP, GPUS)
"""Columns that are no parameters, beside those of load levels."""
SHIPPED = Path(__file__).parent / "tables"
HEADER = 1
"""Lines above the first row."""


def shipped() -> list[str]:
    """Names of the tables that ship with tuner."""
    return sorted(file.name.removesuffix(".csv.gz") for file in SHIPPED.glob("*.csv.gz"))


def read_table(path: str) -> Table:
    """The table in a file; one that has not changed is read once.

    Args:
        path: Of the file, or the name of a table that ships with tuner.

    Raises:
        ConfigError: there is none, or something is wrong with it.
    """
    file = SHIPPED / f"{path}.csv.gz" if path in shipped() else Path(path).expanduser()
    try:
        changed = file.stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(f"engine.table: cannot read {path} ({error.strerror}); give the path of a CSV or Parquet file") from error
    return _read(file, changed)


@lru_cache(maxsize=8)
def _read(file: Path, changed: int) -> Table:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"engine.table: cannot read {file} ({error.strerror}); give the path of a CSV or Parquet file") from error
    return _Reader(file).table(_parquet(file, content) if file.suffix == ".parquet" else _csv(file, content), _digest(content))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _parquet(file: Path, content: bytes) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(io.BytesIO(content))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{file}: no Parquet file ({_first_line(error)}); write it anew, or as CSV") from error
    return frame.astype(object).where(frame.notna(), None)


def _csv(file: Path, content: bytes) -> pd.DataFrame:
    """All cells as texts. The header is read as a row: pandas would rename what stands there twice."""
    import pandas as pd

    compression = "gzip" if content[:2] == b"\x1f\x8b" else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            cells = pd.read_csv(
                io.BytesIO(content),
                header=None,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                encoding="utf-8-sig",
                compression=compression,
            )
    except (ValueError, OSError, EOFError, pd.errors.ParserWarning) as error:  # pandas' own errors are ValueErrors
        raise ConfigError(f"{file}: no CSV file ({_first_line(error)}); write it with commas between the columns, in UTF-8") from error
    frame = cells.iloc[1:].reset_index(drop=True)
    frame.columns = pd.Index(["" if not isinstance(name, str) else name for name in cells.iloc[0]])
    return frame


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]


class _Reader:
    """Makes a table of cells."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def table(self, frame: pd.DataFrame, digest: str) -> Table:
        names = [str(name).strip() for name in frame.columns]
        for position, name in enumerate(names):
            if name and name in names[:position]:
                self._wrong(f"column {name} stands there twice; rename or remove one")
        frame.columns = type(frame.columns)(names)
        columns = {name: column for name in names if (column := self._level_column(name)) is not None}
        # a column without a name is the index that pandas writes
        parameters = tuple(name for name in names if name and name not in columns and name not in OWN and not name.startswith("_"))
        frame = frame[[name for name in names if name in (*parameters, *columns, *OWN)]]
        frame = frame[[any(str(cell).strip().lower() not in MISSING and cell is not None for cell in row) for row in frame.values.tolist()]]
        if not parameters or all(name == LOAD for name, _ in columns.values()):
            what = "parameters" if not parameters else "metrics such as ttft_p99_s@16"
            self._wrong(f"no columns with {what} among {show(names)}; docs/replay.md tells the format")
        if frame.empty:
            self._wrong("no rows below the header; give one for each configuration")
        numbers = np.column_stack([self._numbers(frame, name) for name in columns])
        rows = self._rows(frame, parameters)
        table = Table(self._file, parameters, rows, tuple(columns.values()), numbers, digest)
        self._check_rows(table)
        return table

    def _level_column(self, name: str) -> Column | None:
        """The metric and level of a column; None for one of another kind."""
        metric, at, level = name.partition("@")
        if name.startswith("_") or (not at and metric not in (*METRICS, LOAD)):
            return None
        if metric not in (*METRICS, LOAD):
            self._wrong(f"column {name}: {metric} is no metric{nearest(metric, METRICS)}; rename it, or begin it with _ to leave it out")
        if not re.fullmatch(r"0*[1-9]\d*", level):
            self._wrong(f"column {name}: a load level is a whole number above 0; write it as {metric}@16")
        return metric, int(level)

    def _numbers(self, frame: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
        """A column of numbers, nan for empty cells."""
        import pandas as pd

        cells = frame[name].map(lambda cell: "" if cell is None or str(cell).strip().lower() in MISSING else str(cell).strip())
        found: npt.NDArray[np.float64] = pd.to_numeric(cells.replace("", None), errors="coerce").to_numpy(dtype=float)
        largest = 1.0 if name.startswith("error_rate@") else math.inf
        for position in np.flatnonzero((cells != "").to_numpy() & ~((found >= 0) & (found <= largest) & np.isfinite(found))):
            what = "a share from 0 to 1" if largest == 1 else "a number from 0"
            self._wrong(f"{show(cells.iloc[position])} is not {what}; correct it, or leave the cell empty", frame.index[position], name)
        return found

    def _optional(self, frame: pd.DataFrame, name: str) -> list[float | None]:
        if name not in frame:
            return [None] * len(frame)
        return [None if math.isnan(value) else float(value) for value in self._numbers(frame, name)]

    def _rows(self, frame: pd.DataFrame, parameters: Sequence[str]) -> list[Row]:
        deploy, warm_up, gpus = (self._optional(frame, name) for name in (DEPLOY, WARM_UP, GPUS))
        texts = [[parse(cell) or "" for cell in frame[name]] if name in frame else [""] * len(frame) for name in (OUTCOME, REASON)]
        values: list[list[Value | None]] = [[parse(cell) for cell in frame[name]] for name in parameters]
        rows = []
        for index, number in enumerate(frame.index):
            if (count := gpus[index]) is not None and (count < 1 or not count.is_integer()):
                self._wrong(f"{count:g} is no whole number above 0; correct it, or leave the cell empty", number, GPUS)
            given = {name: value for name, column in zip(parameters, values, strict=True) if (value := column[index]) is not None}
            outcome, reason = (" ".join(str(text[index]).split()) for text in texts)
            rows.append(
                Row(
                    index=index,
                    line=_line(number),
                    configuration=given,
                    outcome=outcome.lower() or MEASURED,
                    reason=reason,
                    deploy_s=deploy[index],
                    warmup_s=warm_up[index],
                    gpus=None if count is None else int(count),
                )
            )
        return rows

    def _check_rows(self, table: Table) -> None:
        metrics = [position for position, (name, _) in enumerate(table.columns) if name != LOAD]
        empty: npt.NDArray[np.bool_] = np.all(np.isnan(table.numbers[:, metrics]), axis=1)
        first: dict[tuple[float | str | None, ...], Row] = {}
        for row in table.rows:
            if row.outcome == MEASURED and empty[row.index]:
                words = ", ".join((*MEMORY_STAGES, "invalid"))
                self._wrong(
                    f"measured, but without a metric; fill one in, or tell in column {OUTCOME} how it failed ({words})", row.line - 2
                )
            key = tuple(same(row.configuration.get(name)) for name in table.parameters)
            if (twin := first.setdefault(key, row)) is not row:
                self._wrong(f"the same configuration as line {twin.line}; keep one, or add a column for what is different", row.line - 2)

    def _wrong(self, what: str, number: int | None = None, column: str | None = None) -> None:
        where = [*([] if number is None else [f"line {_line(number)}"]), *([] if column is None else [f"column {column}"])]
        raise ConfigError(": ".join([str(self._file), *([", ".join(where)] if where else []), what]))


def _line(number: int) -> int:
    """The line of a row in its file, where no cell goes over several."""
    return int(number) + 1 + HEADER
