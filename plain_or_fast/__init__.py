"""The switch between the plain edition and its faster twins.

A plain function that is marked @has_twin("a.fast.module") has a twin of the same name and signature in that module.
Calling it runs the twin. With MINIGPT_PLAIN=1 in the environment, or inside `with plain():`, it runs as it is written.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import ParamSpec, TypeVar

PLAIN = "MINIGPT_PLAIN"
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Switch:
    fast = os.environ.get(PLAIN, "0") in ("", "0")


def has_twin(module: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Mark a plain function: its namesake in `module` does the same in less time and runs in its place.

    >>> @has_twin("math")
    ... def gcd(a, b):
    ...     return a if b == 0 else gcd(b, a % b)
    >>> gcd(12, 18)
    6
    """

    def mark(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        if not Switch.fast:  # a process that is plain from its start: nothing stands between a call and the function
            return function
        twins: list[Callable[Arguments, Result]] = []

        @wraps(function)
        def call(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            if not Switch.fast:
                return function(*arguments, **named)
            if not twins:  # found at the first call, since the twin's module imports the plain one
                twins.append(getattr(import_module(module), function.__name__))
            return twins[0](*arguments, **named)

        return call

    return mark


@contextmanager
def plain() -> Iterator[None]:
    """Inside this context every marked function runs as it is written.

    >>> with plain():
    ...     print(Switch.fast)
    False
    """
    before, Switch.fast = Switch.fast, False
    try:
        yield
    finally:
        Switch.fast = before
