"""Exercises made from the shipped source: a copy of the project with one piece taken out, and the tests to grade it.

python -m scripts.exercise --topic top_p          # or --grade, or --hint, for the same topic
"""

import ast
import shutil
import textwrap
from pathlib import Path

from scripts.support.command_line import Parser, run
from scripts.support.exercises.guide import TOPICS, Exercise
from scripts.support.run_directory import locked, write_json

ROOT = Path(__file__).parent.parent
COPIED = ("plain_or_fast", "minigpt", "decoding", "sft", "scripts", "tests", "pyproject.toml")


def without(source: str, exercise: Exercise) -> str:
    """The source of a file with the exercise's piece taken out. ValueError when the piece isn't there, once."""
    function = find(source, exercise.name)
    if exercise.only:
        found = [node for node in ast.walk(function) if isinstance(node, ast.stmt)]
        found = [node for node in found if ast.get_source_segment(source, node).startswith(exercise.only)]
        if len(found) != 1:
            raise ValueError(
                f"{exercise.file}: {exercise.name} has {len(found)} statements that begin {exercise.only!r}"
            )
        first, last, indent = found[0].lineno, found[0].end_lineno, found[0].col_offset
    else:
        body = function.body
        first = body[0].end_lineno + 1 if ast.get_docstring(function) else body[0].lineno
        last, indent = function.end_lineno, body[0].col_offset
    lines = source.split("\n")
    lines[first - 1 : last] = [f"{' ' * indent}raise NotImplementedError({'your turn: ' + exercise.task!r})"]
    return "\n".join(lines)


def find(source: str, name: str) -> ast.AST:
    """The function, class or value that a file defines under a name, Class.name for what a class defines.

    >>> find("class A:\\n    def f(self): ...", "A.f").lineno
    2
    """
    node = ast.parse(source)
    for part in name.split("."):
        found = [child for child in node.body if part in names(child)]
        if not found:
            raise ValueError(f"{name} is not defined")
        node = found[0]
    return node


def names(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [leaf.id for target in targets if target for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]


def make(topic: str, directory: Path, overwrite: bool = False) -> Path:
    """Copy the project into the directory, with the topic's piece taken out; return the file to work on.

    ValueError for an unknown topic, or when the directory already exists.
    """
    from minigpt.files.writing import written_whole  # here: it loads torch, which --help can do without

    if topic not in TOPICS:
        raise ValueError(f"{topic!r} is not a topic; there are {', '.join(TOPICS)}")
    if directory.exists() and not overwrite:
        raise ValueError(f"{directory}: already exists, with your work; OVERWRITE=1 starts again")
    exercise = TOPICS[topic]
    gap = without((ROOT / exercise.file).read_text(encoding="utf-8"), exercise)
    with written_whole(directory) as aside:
        copy_project(aside)
        (aside / exercise.file).write_text(gap, encoding="utf-8")
    return directory / exercise.file


def copy_project(directory: Path) -> None:
    """Copy what an exercise needs of the project into a directory that isn't there yet."""
    directory.mkdir(parents=True)
    try:
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, directory)
    except shutil.Error as problem:  # a list of all files that could not be copied
        *_, why = problem.args[0][0]
        raise OSError(why) from problem


def describe(topic: str) -> str:
    """The task as text: what to write, its signature and docstring from the source, and the rules for the edges."""
    exercise = TOPICS[topic]
    function = find((ROOT / exercise.file).read_text(encoding="utf-8"), exercise.name)
    signature = f"{exercise.name}({ast.unparse(function.args)})" + (
        f" -> {ast.unparse(function.returns)}" if function.returns else ""
    )
    parts = [f"{exercise.statement}  {exercise.name}: {exercise.task}", signature, ast.get_docstring(function) or ""]
    if exercise.only:
        parts.append(f"Only the part that began `{exercise.only}` is missing: look around it for the names in reach.")
    parts.append("Rules: " + exercise.rules)
    first = exercise.cases[0]
    parts.append(f"For example: {first.code} gives {first.right}")
    described = "\n\n".join("\n".join(fold(part)) for part in parts if part)
    helpers = [f"\n    {line}" for line in exercise.helpers(first.code)]
    return described + "".join(["\nwhere", *helpers] if helpers else [])


def fold(text: str) -> list[str]:
    """Lines of at most 100 characters: each paragraph is filled anew; an example and what is set in stay as they are.

    >>> fold("one\\ntwo\\n\\n>>> f()\\n[1,\\n 2]")
    ['one two', '', '>>> f()', '[1,', ' 2]']
    """
    lines = []
    for paragraph in text.split("\n\n"):
        as_it_is = paragraph.startswith(">>>") or "\n " in paragraph
        lines += ["", *(paragraph.split("\n") if as_it_is else textwrap.wrap(paragraph, 100))]
    return lines[1:]


def next_hint(topic: str, directory: Path, number: int | None = None) -> list[str]:
    """The hints up to a number from 1 to 3; without one, one more than were shown before."""
    from minigpt.files.reading import read_json  # here: it loads torch, which --help can do without

    file = directory / "hints.json"
    shown = read_json(file) if file.is_file() else {}
    seen = shown[topic] if type(shown.get(topic)) is int else 0
    count = number or min(max(seen, 0) + 1, 3)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(file, shown | {topic: max(count, seen)})
    lines = [f"{i} of 3: {hint}" for i, hint in enumerate(TOPICS[topic].hints[:count], 1)]
    return [part for line in lines for part in fold(line)]


def list_topics() -> None:
    """Print each exercise: whether it is open, tried or solved, and where it is."""
    from scripts.support.exercises.grading import state

    states = {}
    for topic, exercise in TOPICS.items():
        states[topic] = state(exercise, ROOT / "exercises" / topic, f"your turn: {exercise.task}")
        mark = {"open": " ", "tried": "…", "solved": "✓"}[states[topic]]
        print(f"{mark} {states[topic]:6}  {exercise.statement:3} {topic:18}  {exercise.file}: {exercise.name}")
    counts = ", ".join(f"{list(states.values()).count(name)} {name}" for name in ("open", "tried", "solved"))
    print(f"\n{counts}. make exercise TOPIC=… begins one, make hint TOPIC=… helps, make grade TOPIC=… grades it")


def main() -> int | None:
    parser = Parser(__doc__, prog="scripts.exercise")
    parser.add_argument("--topic", help="which one to make (default: list them)")
    parser.add_argument("--overwrite", action="store_true", help="start again where you have already worked")
    parser.add_argument("--grade", action="store_true", help="grade what you wrote")
    parser.add_argument("--hint", action="store_true", help="show one more of its three hints")
    parser.add_argument("--n", type=int, choices=[1, 2, 3], help="with --hint: show the first n")
    args = parser.parse_args()
    topic, exercises = args.topic, ROOT / "exercises"
    if topic is None and (args.grade or args.hint):
        raise ValueError("--topic is missing: which exercise?")
    if topic is None:
        list_topics()
        return None
    if topic not in TOPICS:
        raise ValueError(f"{topic!r} is not a topic; there are {', '.join(TOPICS)}")

    if args.grade:
        from scripts.support.exercises.grading import grade

        result = grade(topic, TOPICS[topic], exercises / topic)
        print(
            "\n".join([*result.lines, f"{topic}: {'solved' if result.solved else 'not yet; make hint TOPIC=' + topic}"])
        )
        return None if result.solved else 1
    if args.hint:
        with locked(exercises):
            hints = next_hint(topic, exercises, args.n)
        print("\n".join(hints))
        return None
    with locked(exercises):
        path = make(topic, exercises / topic, args.overwrite)
    print(f"{describe(topic)}\n\nwrite it in  {path.relative_to(ROOT)}\ngrade it by  make grade TOPIC={topic}")
    return None


if __name__ == "__main__":
    run(main)
