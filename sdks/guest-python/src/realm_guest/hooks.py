"""What stands beside a program's own generations, token by token.

Only a module that has a class `Hooks` may import this one: the world of other programs has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.hooks import (
    Plan,
    Request,
    Stages,
    Steer,
    Steer_Add,
    Steer_Only,
    Steer_Same,
    Verdict,
    Verdict_Pass,
    Verdict_Rewrite,
    Verdict_Stop,
)
from wit_world.imports.model import Params as GenerateParams
from wit_world.imports.types import Error_Failed, Finish

__all__ = [
    "Beside",
    "Request",
    "Steer",
    "Steer_Add",
    "Steer_Only",
    "Steer_Same",
    "Verdict",
    "Verdict_Pass",
    "Verdict_Rewrite",
    "Verdict_Stop",
    "hooks",
]


class Beside:
    """One generation's hooks. It is asked for what it overrides, and costs nothing of the rest."""

    #: What the generation is begun with in place of the request's.
    params: GenerateParams | None = None

    def bias(self, last: int | None) -> Steer:  # noqa: ARG002
        """What decides about the next token: asked with the one before it, and first with none."""
        return Steer_Same()

    def on_token(self, token: int, text: str) -> Verdict:  # noqa: ARG002
        """What becomes of a token's text: whole characters, so that it may be empty."""
        return Verdict_Pass()

    def on_finish(self, finish: Finish) -> str:  # noqa: ARG002
        """Text for the end of an answer that has ended by itself."""
        return ""


#: Asked before each generation. None lets it be; what is raised refuses it.
Ask = Callable[[Request], Beside | None]


def stages(beside: Beside) -> Stages:
    """What somebody is to be asked."""
    of = type(beside)
    wanted = Stages(0)
    if of.bias is not Beside.bias:
        wanted |= Stages.BIAS
    if of.on_token is not Beside.on_token:
        wanted |= Stages.TOKEN
    if of.on_finish is not Beside.on_finish:
        wanted |= Stages.FINISH
    return wanted


def hooks(ask: Ask) -> type[exports.Hooks]:
    """The class that a component's module calls `Hooks`.

    `ask` runs in an instance of its own that knows nothing of the one which serves the call, and
    may neither generate nor write a reply.
    """

    class Hooks(exports.Hooks):
        #: An instance of a component has one generation.
        beside: ClassVar[Beside] = Beside()

        def on_request(self, request: Request) -> Plan:
            try:
                beside = ask(request) or Beside()
            except Err:
                raise
            except Exception as error:
                # Anything else would end in a trap, which says nothing.
                raise Err(Error_Failed(f"{type(error).__name__}: {error}")) from error
            Hooks.beside = beside
            return Plan(beside.params or request.params, stages(beside))

        def bias(self, last: int | None) -> Steer:
            return Hooks.beside.bias(last)

        def on_token(self, id: int, text: str) -> Verdict:  # noqa: A002
            return Hooks.beside.on_token(id, text)

        def on_finish(self, finish: Finish) -> str:
            return Hooks.beside.on_finish(finish)

    return Hooks
