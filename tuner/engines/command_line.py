"""From a configuration to the words of a command line, for the version of an engine that is in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from packaging.version import Version

from tuner.engines.flag_drift import Drift, of_version, renamed
from tuner.engines.flag_table import Flag, FlagTable
from tuner.engines.runtime_flags import Spelling
from tuner.errors import Infeasible
from tuner.explain import nearest, show
from tuner.launch import Value


@dataclass(frozen=True, slots=True)
class CommandLine:
    """An engine's flags. The table judges names and values only for the version that it is of; it spells them for all.

    Attributes:
        title: The engine's name, for messages.
        table: The flags of one version.
        version: The one in use.
        drifts: What was spelled differently before.
        negatable: Whether `--no-x` turns off a switch `--x` that the table does not hold.
    """

    title: str
    table: FlagTable
    version: Version
    drifts: Sequence[Drift]
    negatable: bool

    @property
    def judges(self) -> bool:
        """Whether the table is of the version in use."""
        return self.version == self.table.version

    @property
    def names(self) -> frozenset[str]:
        """All names that the table and the drifts know."""
        return self.table.names | {name for drift in self.drifts for name in (drift.before, drift.switch) if name and not drift.until}

    def canonical(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """`given` by the names of today.

        Raises:
            Infeasible: the version has no such flag, the value is not one of its, or two names mean the same.
        """
        found: dict[str, Value] = {}
        for name, value in given.items():
            today = renamed(self.canonical_name(name), self.drifts)
            if today in found:
                raise Infeasible(f"{name}: the same as {today}, which is given too; leave one out")
            self._check_version(name, today, value)
            if self.judges:
                self._check(name, today, value)
            found[today] = value
        return found

    def has(self, name: str) -> bool:
        """Whether the version in use has the parameter or another one for it, as far as the drifts tell."""
        return not any(drift.lacking(self.version) for drift in self.drifts if drift.name == name)

    def canonical_name(self, name: str) -> str:
        """The name of the flag that `name` is an alias of, or else `name`."""
        flag = self.table.find(name)
        return name if flag is None else flag.name

    def words(self, full: Mapping[str, Value], value_of: Callable[[str, Value], Value]) -> list[str]:
        """The words for a whole configuration.

        Args:
            full: By the names of today, `combined`.
            value_of: Gives the value to be written for a name and its value.
        """
        return [
            word
            for name, value in of_version(self.version, full, self.drifts).items()
            for word in self._flag(name).words(value_of(name, value))
        ]

    @property
    def spellings(self) -> dict[str, Spelling]:
        """What each word means that begins with a dash, as far as the version in use has it: flags that it lacks may begin like its own."""
        older = {name for drift in self.drifts for name in (drift.before, drift.switch, drift.name if drift.until else "") if name}
        # what an old version knew by a name of its own, such as `disable_log_requests`, is that and not a newer flag's other spelling
        flags = [*self.table.flags, *(self._flag(name) for name in sorted(older))]
        return {word: spelling for flag in flags if self.has(flag.name) for word, spelling in flag.spellings.items()}

    def _flag(self, name: str) -> Flag:
        """How a parameter is spelled that some version has."""
        for drift in self.drifts:
            if drift.before == name and renamed(name, self.drifts) != name and (today := self.table.find(drift.name)) is not None:
                return replace(today, flag=Flag.unlisted(name, False).flag, aliases=())
        return self.table.find(name) or Flag.unlisted(name, self.negatable)

    def _check_version(self, name: str, today: str, value: Value) -> None:
        for drift in self.drifts:
            if drift.name != today:
                continue
            if why := drift.lacking(self.version):
                raise Infeasible(f"{name}: {self.title} {self.version} has no flag --{name.replace('_', '-')}, {why}")
            if drift.value and self.version < drift.since and value not in (drift.value, drift.usual):
                raise Infeasible(f"{name}={value}: {self.title} {self.version} knows only {drift.value} and {drift.usual}")

    def _check(self, name: str, today: str, value: Value) -> None:
        flag = self.table.find(today)
        hint = "for another version name it: engine.version=..."
        if flag is None:
            kebab = name.replace("_", "-")
            raise Infeasible(f"{name}: {self.title} {self.version} has no flag --{kebab}{nearest(name, self.names)}; {hint}")
        try:
            flag.check(value)
        except Infeasible as error:
            raise Infeasible(f"{name}={show(value)}: {error.reason} in {self.title} {self.version}; {hint}") from error
