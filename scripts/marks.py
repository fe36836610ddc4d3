"""Mark a class's exercises: a table of points from the grading that a student sees, and the same as a file.

python -m scripts.marks submissions                  # each NAME/TOPIC.py, or NAME/TOPIC/ as it stood in exercises/
python -m scripts.marks submissions --topic top_p    # each NAME.py too
"""

import csv
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from scripts.exercise import COPIED, ROOT, copy_project
from scripts.support.command_line import Parser, file_name, run, whole
from scripts.support.exercises.grading import POINTS, Limits, grade
from scripts.support.exercises.guide import TOPICS
from scripts.support.run_directory import locked
from scripts.support.terminal import table, visible

LARGEST = 1_000_000  # bytes of a submitted file
KEPT = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL")  # of the environment; the rest is no business of a submission


class Mark(NamedTuple):
    """The points for one topic of one submission, and why some are missing."""

    points: float
    remark: str = ""


def submissions(directory: Path, topics: list[str]) -> dict[str, dict[str, Path]]:
    """Each student's files by topic: DIR/NAME/TOPIC.py, DIR/NAME/TOPIC/…, and for a single topic DIR/NAME.py."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            found[path.name] = {topic: file for topic in topics if (file := handed_in(path, topic))}
        elif path.suffix == ".py" and path.is_file() and len(topics) == 1:
            found[path.stem] = {topics[0]: path}
    return found


def handed_in(directory: Path, topic: str) -> Path | None:
    """A student's file for a topic, None if there is none."""
    places = directory / f"{topic}.py", directory / topic / TOPICS[topic].file
    return next((place for place in places if place.is_file()), None)


def mark(topic: str, file: Path | None, limits: Limits) -> Mark:
    """Grade a submitted file in a fresh copy of the project, which is thrown away afterwards."""
    if file is None:
        return Mark(0, "missing")
    if file.stat().st_size > LARGEST:
        return Mark(0, f"the file is larger than {LARGEST:,} bytes")
    with tempfile.TemporaryDirectory(prefix="marks-", ignore_cleanup_errors=True) as aside:
        directory = Path(aside) / topic
        copy_project(directory)
        shutil.copyfile(file, directory / TOPICS[topic].file)
        own = {name: os.environ[name] for name in KEPT if name in os.environ}
        own |= {"TMPDIR": aside, "TEMP": aside, "HOME": aside, "OMP_NUM_THREADS": "1"}
        try:
            graded = grade(topic, TOPICS[topic], directory, limits._replace(environment=own))
        except Exception as problem:  # whatever a submission brings about costs its own row only
            return Mark(0, f"{type(problem).__name__}: {problem}")
    return Mark(graded.points, "" if graded.solved else why(graded.lines))


def why(lines: list[str]) -> str:
    """What was wrong, in one line: the name of a typical mistake, else what failed."""
    named = [line.split("→ ")[1] for line in lines if "→ " in line]
    failed = [line.split("✗ ")[1] for line in lines if "✗ " in line]
    got = [line.strip() for line in lines if "yours: " in line and "Error" in line]
    return " ".join((named or got or failed or lines or ["nothing came"])[0].split())


def fingerprint(directory: Path) -> str:
    """A hash of all sources of a checkout, names included."""
    whole_of = hashlib.sha256()
    for name in COPIED:
        room = directory / name
        for file in sorted(room.rglob("*")) if room.is_dir() else [room]:
            if file.is_file() and "__pycache__" not in file.parts:
                whole_of.update(str(file.relative_to(directory)).encode() + file.read_bytes())
    return whole_of.hexdigest()


def rows(found: dict[str, dict[str, Path]], topics: list[str], limits: Limits, jobs: int) -> Iterator[tuple]:
    """Name, points per topic, their sum and the remarks of each student, as soon as they are known, in order."""
    with ThreadPoolExecutor(jobs) as pool:
        tasks = {
            name: [pool.submit(mark, topic, files.get(topic), limits) for topic in topics]
            for name, files in found.items()
        }
        try:
            for name, marks in tasks.items():
                done = [task.result() for task in marks]
                remarks = [f"{topic}: {one.remark}" for topic, one in zip(topics, done) if one.remark]
                points = [one.points for one in done]
                yield name, *(f"{number:.3g}" for number in [*points, sum(points)]), "; ".join(remarks)
        finally:
            pool.shutdown(cancel_futures=True)


def main() -> None:
    parser = Parser(__doc__, prog="scripts.marks")
    parser.add_argument("directory", type=file_name, help="with one directory, or one file, per student")
    parser.add_argument("--topic", action="append", help="which to mark (default: all that somebody handed in)")
    parser.add_argument("--out", type=file_name, help="the table as a file (default: marks.csv in the directory)")
    parser.add_argument("--seconds", type=whole(1), default=120, help="for each half of a topic (default: %(default)s)")
    parser.add_argument("--megabytes", type=whole(1), default=4096, help="of memory (default: %(default)s)")
    parser.add_argument("--jobs", type=whole(1), default=2, help="submissions side by side (default: %(default)s)")
    args = parser.parse_args()
    from minigpt.files.writing import write_text

    # who handed in what?
    if not args.directory.is_dir():
        raise FileNotFoundError(f"{args.directory}: no such directory; it holds one directory per student")
    if unknown := [topic for topic in args.topic or [] if topic not in TOPICS]:
        raise ValueError(f"{unknown[0]!r} is not a topic; there are {', '.join(TOPICS)}")
    found = submissions(args.directory, args.topic or list(TOPICS))
    topics = args.topic or [topic for topic in TOPICS if any(topic in files for files in found.values())]
    if not topics or not found:
        raise ValueError(f"{args.directory}: nobody handed in NAME/TOPIC.py; with --topic, NAME.py will do too")

    # grade
    limits, before, done = Limits(args.seconds, args.megabytes), fingerprint(ROOT), []
    out = args.out or args.directory / "marks.csv"
    with locked(out.parent):  # a place that can't be written is told before any work
        for row in rows(found, topics, limits, args.jobs):
            done.append(row)
            if sys.stderr.isatty():
                end = "\n" if len(done) == len(found) else ""
                print(f"\r{len(done)} of {len(found)} marked", end=end, file=sys.stderr, flush=True)

        # tell, even if the disk is full by now
        header = ["name", *topics, "sum", "remarks"]
        text = io.StringIO()
        csv.writer(text).writerows([header, *done])
        try:
            write_text(out, text.getvalue())
        finally:
            table(header, done)
    points = "half for its first cases, half for the project's tests"
    print(f"\n  {POINTS} points for each topic: {points}.  {visible(str(out))}")
    if fingerprint(ROOT) != before:
        raise ValueError("a submission has changed this checkout: git status tells what; mark in a container")


if __name__ == "__main__":
    run(main)
