"""What starts quickly: --help needs no torch, and importing minigpt little beyond it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = [
    ".".join(path.relative_to(ROOT / "scripts").with_suffix("").parts)
    for path in sorted((ROOT / "scripts").rglob("*.py"))
    if "Parser(" in path.read_text("utf-8") and path.name != "command_line.py"
]
HEAVY = {
    "torch",
    "starlette",
    "uvicorn",
    "numpy",
    "transformers",
    "matplotlib",
    "tiktoken",
    "regex",
    "hypothesis",
    "minigpt",
}


def loaded(code: str) -> set[str]:
    """The modules that a fresh process has after running the code."""
    report = "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
    done = subprocess.run([sys.executable, "-c", report + code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_scripts_are_found():
    assert {"demo", "pretrain", "finetune", "generate", "lab.bench"} <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_printing_help_imports_nothing_heavy(name):
    code = f"import runpy; sys.argv = ['{name}', '--help']; runpy.run_module('scripts.{name}', run_name='__main__')"
    modules = loaded(code)
    assert "argparse" in modules
    assert not modules & HEAVY


def test_importing_minigpt_leaves_the_tokenizers_libraries_for_later():
    modules = loaded("import minigpt, decoding, sft")
    assert {"minigpt.tokenizer", "decoding.beam", "sft.data"} <= modules
    assert not modules & {"tiktoken", "regex", "gguf", "transformers", "matplotlib"}


@pytest.mark.parametrize("name, value", [("OMP_WAIT_POLICY", "passive"), ("OPENBLAS_NUM_THREADS", "1")])
def test_threads_that_do_not_help_are_told_so_before_torch_and_numpy_are_loaded(name, value):
    code = f"import sys, os, scripts; assert not {{'torch', 'numpy'}} & sys.modules.keys(); print(os.environ[{name!r}])"
    environment = {other: kept for other, kept in os.environ.items() if other != name}
    for given, expected in ((environment, value), (environment | {name: "2"}, "2")):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=given, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr
