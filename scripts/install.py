"""Make .venv and install the course into it, with one line that shows how far it is; needs nothing but Python.

python3 -m scripts.install demo test

The words are the extras of pyproject.toml. PIP_ARGS in the environment is passed on to pip.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

# subtle: an old Python must still be able to read this file, or it can't say that it is too old
NEEDED = (3, 11)
ENVIRONMENT = Path(".venv")
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
SIZE = "about 0.3 GB to download, most of it PyTorch"
SIZE_WITH_CUDA = (
    "up to 4.7 GB to download, most of it PyTorch and CUDA; without a GPU 0.3 GB will do: "
    'PIP_ARGS="--extra-index-url ADDRESS", the address that PyTorch\'s page of installation names for "CPU"'
)
LARGE = 20  # megabytes: a download that is named where lines can't be written over


def too_old(version: tuple, name: str) -> str:
    """What to say about a Python that is too old; nothing about one that will do.

    >>> too_old((3, 9, 18), "python3")
    'needs Python 3.11 or newer, and python3 is 3.9.18; name another one: make demo PYTHON=python3.11'
    >>> too_old((3, 14, 0), "python3")
    ''
    """
    if version >= NEEDED:
        return ""
    needed, found = (".".join(map(str, numbers)) for numbers in (NEEDED, version))
    return f"needs Python {needed} or newer, and {name} is {found}; name another one: make demo PYTHON=python{needed}"


def short(line: str) -> str:
    """What a line of pip's says is going on; nothing if it says nothing of use.

    >>> short("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (887.9 MB)")
    'downloading torch-2.13.0 (887.9 MB)'
    >>> short("Collecting numpy>=1.26 (from minigpt-course==0.1.0)")
    'looking for numpy>=1.26'
    >>> short("Installing collected packages: numpy, torch")
    'unpacking 2 packages'
    >>> short("Requirement already satisfied: regex")
    ''
    """
    words = line.split()
    if words[:1] == ["Downloading"] and len(words) > 3:
        return "downloading " + "-".join(words[1].split("-")[:2]) + " " + " ".join(words[2:4])
    if words[:1] == ["Collecting"] and len(words) > 1:
        return f"looking for {words[1]}"
    if words[:2] == ["Installing", "collected"]:
        return f"unpacking {len(words) - 3} packages"
    return ""


def shown(pip: "subprocess.Popen[str]", terminal: bool) -> list:
    """Show what pip is at until it ends, on one line if this is a terminal; return all that it wrote."""
    lines = Queue()  # type: Queue[str]

    def read() -> None:
        for line in pip.stdout or []:
            lines.put(line)

    Thread(target=read, daemon=True).start()
    written, doing, start = [], "starting pip", time.monotonic()
    while pip.poll() is None or not lines.empty():
        try:
            written.append(lines.get(timeout=1))
        except Empty:
            line = ""
        else:
            line = short(written[-1])
        doing = line or doing
        if terminal:
            print(f"\r\x1b[K{doing[:60]}, {time.monotonic() - start:.0f} s", end="", flush=True)
        elif line and (line.startswith("unpacking") or megabytes(line) >= LARGE):
            print(line, flush=True)
    if terminal:
        print("\r\x1b[K", end="")
    return written


def megabytes(line: str) -> float:
    """How much a line of `short` says is downloaded.

    >>> megabytes("downloading torch-2.13.0 (1.5 GB)"), megabytes("looking for numpy")
    (1500.0, 0)
    """
    words = line.rstrip(")").split(" (")[-1].split()
    return float(words[0]) * {"GB": 1000, "MB": 1}.get(words[1], 0) if line.endswith("B)") else 0


def found() -> tuple:
    """The version of .venv's Python, () if none runs, and whether it has pip: a .venv that failed halfway has none."""
    if not PYTHON.exists():
        return (), False
    command = [str(PYTHON), "-c", "import sys; print(*sys.version_info[:3]); sys.stdout.flush(); import pip"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return tuple(map(int, done.stdout.split())), done.returncode == 0


def install(extras: list) -> None:
    """Make .venv unless it is there, and install this checkout with the extras; exits with one line if that fails."""
    version, has_pip = found()
    if version and version < NEEDED:
        old, needed = (".".join(map(str, numbers)) for numbers in (version, NEEDED))
        sys.exit(f"install: .venv was made with Python {old}, and {needed} or newer is needed: remove .venv, try again")
    if not has_pip:
        print(f"installing into .venv: {SIZE_WITH_CUDA if sys.platform == 'linux' else SIZE}", flush=True)
        if subprocess.call([sys.executable, "-m", "venv", str(ENVIRONMENT)]):
            sys.exit("install: Python could not make .venv; what it wrote stands above")

    start = time.monotonic()
    command = [str(PYTHON), "-m", "pip", "install", "--progress-bar", "off", "--constraint", "constraints.txt"]
    command += [*shlex.split(os.environ.get("PIP_ARGS", "")), "--editable", f".[{','.join(extras)}]"]
    pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    written = shown(pip, sys.stdout.isatty())
    if pip.returncode:
        offline = ", and had no connection (is there a network?)" if "connection broken" in "".join(written) else ""
        sys.exit("".join(written[-12:]) + f"install: pip failed{offline}; its last words stand above")
    print(f"installed {', '.join(extras)} in {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    problem = too_old(sys.version_info[:3], os.environ.get("PYTHON", "python3"))
    if problem:
        sys.exit(f"install: {problem}")
    install(sys.argv[1:] or ["demo"])
