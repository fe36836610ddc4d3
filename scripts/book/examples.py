"""The small examples of a chapter: run when the book is built, in the plain edition, with what they print."""

import ast
import contextlib
import io
import traceback

from plain_or_fast import plain


def run(code: str, names: dict) -> str:
    """Run an example; return what it prints and, as in a notebook, the value of its last line, if that is one.

    names: what earlier examples of the chapter defined; what this one defines is added. ValueError that names the line
    when it fails.

    >>> names = {}
    >>> run("x = 2", names), run("print(x)\\nx + 1", names)
    ('', '2\\n3')
    """
    printed = io.StringIO()
    try:
        tree = ast.parse(code)
        ends_in_value = tree.body and isinstance(tree.body[-1], ast.Expr)
        value = ast.Expression(tree.body.pop().value) if ends_in_value else None
        with plain(), contextlib.redirect_stdout(printed):
            exec(compile(tree, "example", "exec"), names)
            result = eval(compile(value, "example", "eval"), names) if value else None
            if result is not None:
                print(repr(result))
    except Exception as problem:
        raise ValueError(f"line {line_of(problem)} of the example: {type(problem).__name__}: {problem}") from problem
    return printed.getvalue().rstrip("\n")


def line_of(problem: Exception) -> int:
    """The line of the example at which it failed."""
    if isinstance(problem, SyntaxError):
        return problem.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == "example"]
    return lines[-1] if lines else 1
