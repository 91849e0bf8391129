"""What a program serves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import handler
from wit_world.imports.types import Error_Failed, Error_UnknownFunction, Finish

from realm_guest.params import Params


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ends, with `data` besides what it has written: anything that JSON has."""

    finish: Finish = Finish.STOP
    data: Any = None


Function = Callable[[Params], Outcome]


class Program:
    """Functions that clients may call, by their names."""

    def __init__(self) -> None:
        self._functions: dict[str, Function] = {}
        self._infos: list[handler.FunctionInfo] = []

    def function(
        self,
        *,
        description: str = "",
        params: Mapping[str, Any] | None = None,
        streams: bool = False,
        name: str | None = None,
    ) -> Callable[[Function], Function]:
        """Serves a function under its own name, or another: 1 to 64 of a-z, 0-9, `_`, `.`, `-`.

        `params` is the JSON Schema of its parameters; `streams` is whether it writes its reply in
        pieces.
        """

        def register(function: Function) -> Function:
            known = name or function.__name__
            schema = json.dumps(params or {})
            self._functions[known] = function
            self._infos.append(handler.FunctionInfo(known, description, schema, streams))
            return function

        return register

    def call(self, name: str, params: str) -> Outcome:
        """Serves one call."""
        function = self._functions.get(name)
        if function is None:
            raise Err(Error_UnknownFunction(name))
        return function(Params.parse(params))

    def handler(self) -> type[exports.Handler]:
        """The class that a component's module calls `Handler`."""
        program = self

        class Handler(exports.Handler):
            def functions(self) -> list[handler.FunctionInfo]:
                return program._infos

            def handle(self, request: handler.Request) -> handler.Outcome:
                try:
                    outcome = program.call(request.function, request.params)
                    data = None if outcome.data is None else json.dumps(outcome.data)
                except Err:
                    raise
                except Exception as error:
                    # Anything else would end in a trap, which says nothing.
                    raise Err(Error_Failed(f"{type(error).__name__}: {error}")) from error
                return handler.Outcome(outcome.finish, data)

        return Handler
