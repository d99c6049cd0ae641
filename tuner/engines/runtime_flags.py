"""Reads the command line of a serving runtime back into an engine's parameters, as the engine's own argparse would read it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import dropwhile, pairwise
from pathlib import PurePosixPath

from tuner.errors import ConfigError, Infeasible
from tuner.explain import show
from tuner.launch import Value

SHELLS = frozenset({"ash", "bash", "busybox", "dash", "ksh", "sh", "zsh"})

# Not a negative number and not a text that begins with a dash: argparse takes those for values.
_FLAG = re.compile(r"(--?[A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)
_SECRET = re.compile(r"(?:^|_)(?:key|password|secret|token)$")
_SWITCHED = {"true": True, "false": False}
_LISTED = 3


@dataclass(frozen=True, slots=True)
class Spelling:
    """What a word such as `--tp-size` or `--no-enable-lora` means.

    Attributes:
        name: The parameter.
        type: `int`, `float` or `str`, of its values; `bool` for a switch, which has none; `part` where they belong into a JSON text.
        nargs: How many values follow, as argparse means it; None for exactly one.
        alone: What the word sets where no value follows and none has to.
    """

    name: str
    type: str
    nargs: str | None = None
    alone: bool = True

    @property
    def least(self) -> int:
        return 0 if self.type == "bool" or self.nargs in ("?", "*") else 1

    @property
    def most(self) -> int | None:
        """None where there is no bound."""
        return 0 if self.type == "bool" else None if self.nargs in ("+", "*") else 1

    def value(self, words: Sequence[str]) -> Value:
        """The value that `words` stand for, as a configuration spells it; what does not parse stays text, for others to judge.

        Raises:
            Infeasible: no value of a configuration stands for them.
        """
        if self.type == "part":
            raise Infeasible(f"it sets a part of a JSON text; set engine.args.{self.name} as a whole")
        if self.type == "bool" and words:
            switched = _SWITCHED.get(words[0].lower())
            if switched is None or not self.alone:
                raise Infeasible("a switch, it takes no value")
            return switched
        if not words and self.nargs != "*":
            if self.least:
                raise Infeasible("its value is missing")
            return self.alone
        text = " ".join(words)
        # several values become one text with spaces between, which must come apart again into the same
        if self.most is None and list(words) != ([text] if text.startswith(("{", "[")) else text.split()):
            raise Infeasible("its values have spaces in them")
        return text if len(words) != 1 else self._parsed(text)

    def _parsed(self, word: str) -> Value:
        if self.type in ("int", "float") and "$(" in word:
            raise Infeasible(f"{show(word)} is known only inside the pod; set engine.args.{self.name}")
        try:
            return int(word) if self.type == "int" else float(word) if self.type == "float" else word
        except ValueError:
            return word


@dataclass(frozen=True, slots=True)
class Grammar:
    """How an engine's command line is read.

    Attributes:
        spellings: The parameters, by each word that begins with a dash.
        ignored: Parameters that are left out of what was read.
        secrets: Parameters that do not belong on a command line.
        abbreviated: Whether the beginning of a flag stands for it, where only one flag begins so.
        negatable: Whether an unknown `--no-x` turns off `--x`.
        positional: Whether the model stands there without a flag before it.
    """

    spellings: Mapping[str, Spelling]
    ignored: frozenset[str]
    secrets: frozenset[str] = frozenset()
    abbreviated: bool = True
    negatable: bool = False
    positional: bool = False

    def find(self, word: str) -> Spelling:
        """What `word` means. An unknown one is a flag by that name with at most one value; whether there is such a flag is not judged here.

        Raises:
            Infeasible: it may mean several, or nothing that could be named.
        """
        # vLLM's parser takes `_` for `-` [vllm/utils/argparse_utils.py]; the others have no flag with `_`
        word = word.replace("_", "-")
        if (exact := self.spellings.get(word)) is not None:
            return exact
        whole, dot, _ = word.partition(".")
        if dot:
            return replace(self.find(whole), type="part")
        if not word.startswith("--"):
            raise Infeasible(f"no flag {word} is known")
        begun = {known: spelling for known, spelling in self.spellings.items() if self.abbreviated and known.startswith(word)}
        if len(set(begun.values())) > 1:
            more = ", ..." if len(begun) > _LISTED else ""
            raise Infeasible(f"{word} could be {', '.join(sorted(begun)[:_LISTED])}{more}")
        if begun:
            return next(iter(begun.values()))
        off = self.negatable and word.startswith("--no-")
        return Spelling(word.removeprefix("--no-" if off else "--").replace("-", "_"), "str", "?", alone=not off)

    def secret(self, spelling: Spelling) -> bool:
        """Whether a flag holds a secret, an unknown one as far as its name tells."""
        return spelling.name in self.secrets or (spelling not in self.spellings.values() and _SECRET.search(spelling.name) is not None)


def read_flags(words: Sequence[str], grammar: Grammar) -> dict[str, Value]:
    """The parameters that a command line sets, without those that `grammar` ignores; of one that is given twice the last counts.

    Args:
        words: Executable and arguments. What stands before the first flag is not looked at.
        grammar: The engine's.

    Raises:
        Infeasible: it cannot be told what the words mean, or they hold a secret. Never repeats a value that may be one.
    """
    found: dict[str, Value] = {}
    models = int(grammar.positional)
    for word, given, following in _groups(_after_executable(words)):
        spelling = grammar.find(word)
        if grammar.secret(spelling):
            raise Infeasible(f"{word}: who may look at a pod can read its command line, and the load generator has no such secret")
        taken = following[: spelling.most] if given is None else []
        models -= len(following) - len(taken)
        if models < 0:
            raise Infeasible(f"after {word} stands a word too many")
        if spelling.name in grammar.ignored:
            continue
        try:
            found[spelling.name] = spelling.value(taken if given is None else [given])
        except Infeasible as error:
            raise Infeasible(f"{word}: {error.reason}") from error
    return found


@contextmanager
def runtime_errors() -> Iterator[None]:
    """Turns what is wrong with a runtime's command line into an error of the configuration, which names the runtime.

    Raises:
        ConfigError: instead of Infeasible.
    """
    try:
        yield
    except Infeasible as error:
        way_out = "to do without its flags set backend.runtime_args=ignore"
        raise ConfigError(f"backend.runtime: its command line cannot be taken over: {error.reason}; {way_out}") from error


def _after_executable(words: Sequence[str]) -> Sequence[str]:
    """The flags. A Python or a wrapper may have some of its own before the engine's."""
    before = list(words[: next((i for i, word in enumerate(words) if word.startswith("--") and len(word) > 2), None)])
    names = [PurePosixPath(word).name for word in before]
    if shell := next((word for word, name in zip(before, names, strict=True) if name in SHELLS), None):
        raise Infeasible(f"it is a text for the shell {shell}")
    start = 0
    for position, (first, second) in enumerate(pairwise(words)):
        python = any(PurePosixPath(word).name.startswith("python") for word in words[:position])
        if (first == "-m" and python) or (second == "serve" and PurePosixPath(first).name in ("vllm", "sglang")):
            start = position + 2
            break
    return list(dropwhile(lambda word: _FLAG.fullmatch(word) is None, words[start:]))


def _groups(words: Sequence[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Each flag with the value behind its `=`, if any, and the words up to the next flag."""
    starts = [position for position, word in enumerate(words) if _FLAG.fullmatch(word)]
    for start, end in pairwise([*starts, len(words)]):
        found = _FLAG.fullmatch(words[start])
        assert found is not None
        yield found[1], found[2], list(words[start + 1 : end])
