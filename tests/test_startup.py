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


def test_waiting_threads_sleep_and_the_policy_is_set_before_torch_is_loaded():
    code = "import sys, os, scripts; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "passive\n"
