"""What a Dockerfile says, as far as ours say it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its lines joined."""

    word: str
    rest: str

    @property
    def flags(self) -> dict[str, str]:
        """What stands before the arguments with two dashes."""
        return dict(re.findall(r"--([a-z]+)=(\S+)", self.rest))

    @property
    def arguments(self) -> Sequence[str]:
        """The words after the flags."""
        return [word for word in self.rest.split() if not word.startswith("--")]


@dataclass(slots=True)
class Stage:
    """One `FROM` and what follows it."""

    base: str
    name: str | None
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, word: str) -> Sequence[Instruction]:
        """Every instruction of a kind, in order."""
        return [each for each in self.instructions if each.word == word]

    def one(self, word: str) -> str:
        """What the only instruction of a kind says."""
        [found] = self.all(word)
        return found.rest

    def exec_form(self, word: str) -> Sequence[str]:
        """A command that no shell reads; fails where a shell would."""
        command = json.loads(self.one(word))
        assert isinstance(command, list), command
        return [str(each) for each in command]

    def copies(self) -> Sequence[tuple[str | None, str, str]]:
        """Stage, source and target of each file or folder that is copied."""
        found = []
        for each in self.all("COPY"):
            *sources, target = each.arguments
            for source in sources:
                whole = target
                if target.endswith("/"):
                    whole = target.removeprefix("./") + Path(source).name
                found.append((each.flags.get("from"), source, whole))
        return found


class Dockerfile:
    """Stages in order, with the defaults of their arguments in place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Arguments before the first `FROM`, by their defaults.
        self.arguments: dict[str, str] = {}
        self.stages: list[Stage] = []
        for each in _instructions(path.read_text()):
            self._take(each)

    def _take(self, each: Instruction) -> None:
        if each.word == "FROM":
            base, *name = each.arguments
            for argument, value in self.arguments.items():
                base = base.replace(f"${{{argument}}}", value)
            self.stages.append(Stage(base, name[1] if name else None))
        elif self.stages:
            self.stages[-1].instructions.append(each)
        else:
            assert each.word == "ARG", f"{each.word} stands before FROM"
            name_, _, default = each.rest.partition("=")
            self.arguments[name_] = default

    @property
    def build(self) -> Stage:
        """Where the programs are compiled."""
        return self.stages[0]

    @property
    def final(self) -> Stage:
        """What the image is."""
        return self.stages[-1]


def _instructions(text: str) -> Sequence[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    split = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [Instruction(word, rest) for word, rest in split]
