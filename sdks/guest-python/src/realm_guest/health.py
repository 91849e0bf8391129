"""Whether a program works, asked before it takes a call.

Only a module that has a class `Health` may import this one: the world of other programs has none.
"""

from __future__ import annotations

from collections.abc import Callable

from componentize_py_types import Err
from wit_world import exports


def health(check: Callable[[], None]) -> type[exports.Health]:
    """The class that a component's module calls `Health`.

    `check` raises where the program does not work, and what it raises says why. It may not call the
    host: no tenant is known yet.
    """

    class Health(exports.Health):
        def check(self) -> None:
            try:
                check()
            except Exception as error:
                raise Err(str(error) or type(error).__name__) from error

    return Health
