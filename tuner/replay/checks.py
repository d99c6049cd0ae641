"""Whether an experiment and a table fit together, told in one line before the first trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tuner.bounds import USERS
from tuner.errors import ConfigError
from tuner.explain import nearest, show
from tuner.launch import Value
from tuner.replay.table import Table, between
from tuner.replay.values import same
from tuner.settings import Settings


def check(settings: Settings, table: Table) -> None:
    """Refuses an experiment that the table cannot answer.

    Raises:
        ConfigError: names the key, what the table has, and what to do.
    """
    _check_parameters(settings, table, settings.engine.args)
    _check_levels(settings, table)


def _check_parameters(settings: Settings, table: Table, args: Mapping[str, Value]) -> None:
    space = settings.space
    for name, value in args.items():
        if name not in table.parameters:
            raise ConfigError(f"engine.args.{name}: {table.path} has no such column{nearest(name, table.parameters)}; remove it")
        if same(value) not in map(same, table.values(name)):
            raise ConfigError(f"engine.args.{name}={value}: {table.path} has only {_listed(table.values(name))}; use one of them")
    for name in table.parameters:
        recorded = {same(value) for value in table.values(name)}
        parameter = space.parameters.get(name)
        if parameter is None:
            if name not in table.constants and name not in args:
                raise ConfigError(
                    f"space.{name}: missing; {table.path} has several values of it ({_listed(table.values(name))}): search it, fix it as "
                    f"in space.{name}={show(table.values(name)[0])}, or rename the column _{name}"
                )
        elif parameter.size is None:
            raise ConfigError(
                f"space.{name}: a continuous range meets no row of {table.path}, which has {_listed(table.values(name))}; give it a step, "
                "or make it {type: ordinal, choices: [...]}"
            )
        elif not any(same(value) in recorded for value in parameter.values()):
            has = _listed(table.values(name))
            raise ConfigError(f"space.{name}: none of its values is in {table.path}, which has {has}; change the range")


def _check_levels(settings: Settings, table: Table) -> None:
    workload = settings.workload
    lowest, highest = workload.levels[0], workload.levels[-1]
    loads = {"workload.levels": workload.levels}
    if workload.goodput is not None:
        loads |= {"workload.goodput.low": (workload.goodput.low or lowest,), "workload.goodput.high": (workload.goodput.high or highest,)}
    for key, levels in loads.items():
        for level in levels:
            if not _has(table.levels, level):
                has = _listed(table.levels)
                raise ConfigError(f"{key}: {table.path} has {has} users, {level} is beyond; use levels from there or between")
    for key, metric, needed in _needs(settings, sorted({level for levels in loads.values() for level in levels})):
        recorded = table.metrics.get(metric)
        if recorded is None:
            near = nearest(metric, table.metrics)
            raise ConfigError(f"{key}.metric: {table.path} has no {metric}{near}; it has {', '.join(table.metrics)}")
        for level in needed:
            if not _has(recorded, level):
                raise ConfigError(f"{key}: {table.path} has {metric} at {_listed(recorded)} users, not at {level}; use one of them")


def _has(recorded: tuple[int, ...], level: int) -> bool:
    return level in recorded or between(recorded, level) is not None


def _needs(settings: Settings, loads: Sequence[int]) -> Iterator[tuple[str, str, Sequence[int]]]:
    """The metrics that are asked for, by key, and where: at one level, or at all loads where the measurements decide."""
    for key, wants in (("objectives", settings.objectives), ("constraints", settings.constraints), ("stop.target", settings.stop.target)):
        for i, want in enumerate(wants):
            if want.metric != USERS:
                level = want.level(settings.workload.levels)
                yield f"{key}.{i}", want.metric, loads if level is None else [level]
    for i, bound in enumerate(settings.workload.goodput.bounds if settings.workload.goodput else ()):
        yield f"workload.goodput.bounds.{i}", bound.metric, loads


def _listed(values: Sequence[Value]) -> str:
    return show(list(values)).strip("[]")
