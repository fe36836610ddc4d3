"""How every command runs: a user's mistake is one line and exit status 2. No torch at import."""

import sys
from collections.abc import Callable


def run(main: Callable[[], object]) -> None:
    """Run a command line; a user's mistake is one line on standard error and exit status 2."""
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as problem:
        print(f"error: {one_line(problem)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def one_line(problem: Exception) -> str:
    """The message of a problem on one line; for a file, its name and what is wrong."""
    text = str(problem)
    if isinstance(problem, OSError) and problem.strerror and problem.filename:
        text = f"{problem.filename}: {problem.strerror}"
    return " ".join(text.split())
