"""Try an exercise's first cases on the code in the working directory: JSON in, JSON out.

python -m scripts.support.exercises.cases < cases.json  # {"prelude": …, "file": …, "cases": [{"code", …}, …]}
"""

import json
import math
import os
import sys
import traceback
from pathlib import Path


def plain(value: object) -> object:
    """A value as lists, numbers and texts: tensors and arrays have no place in a message.

    >>> plain((1, {2: float("-inf")}))
    [1, {2: -inf}]
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def same(one: object, other: object) -> bool:
    """Equal, numbers within a thousandth and NaN like NaN.

    >>> same([1, 0.33333], [1, 0.3334]), same([1], [1, 1]), same([True], [0.2])
    (True, False, False)
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) or isinstance(other, float):
        numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (one, other))
        return numbers and (one == other or abs(one - other) < 1e-3 or (math.isnan(one) and math.isnan(other)))
    return one == other


def place(problem: BaseException, file: str) -> str:
    """Where in the file it was raised, or whence it was called: " at line 7: return x"; "" if nowhere in it."""
    frames = [at for at in traceback.extract_tb(problem.__traceback__) if Path(at.filename).as_posix().endswith(file)]
    return f" at line {frames[-1].lineno}: {frames[-1].line}" if file and frames else ""


def judge(case: dict, known: dict, file: str = "") -> dict:
    """Whether a case comes out right, else what came and, for a typical mistake, its name. file: the student's."""
    right = plain(eval(case["right"], dict(known)))
    try:
        got = plain(eval(case["code"], dict(known)))
    except BaseException as problem:  # an exit too: it costs this case, and the next one is tried
        return {
            "right": False,
            "got": f"{type(problem).__name__}: {problem}"[:300] + place(problem, file),
            "expected": repr(right),
            "mistake": "",
        }
    named = [words for wrong, words in case["mistakes"].items() if same(got, plain(eval(wrong, dict(known))))]
    return {"right": same(got, right), "got": repr(got)[:300], "expected": repr(right), "mistake": "".join(named[:1])}


def main() -> None:
    asked = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the code itself prints goes nowhere
        known = {}
        exec(asked["prelude"], known)
        answer.write(json.dumps([judge(case, known, asked["file"]) for case in asked["cases"]]))


if __name__ == "__main__":
    main()
