"""The house: which file may know of which, and what library code leaves to the scripts."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("minigpt", "decoding", "sft")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}

# Which modules of minigpt each plain one may import. What is in fast/ and files/ may import all plain ones.
ARROWS = {
    "formulas": set(),
    "config": set(),
    "tokenizer": set(),
    "data": {"files.writing"},  # a token file, too, is written whole or not at all
    "corpus": {"data", "tokenizer"},
    "initial": set(),
    "optim": {"config", "fast.muon"},  # muon: the other optimizer, when it is asked for by name
    "model": {"formulas", "config", "initial"},
    "loop": {"data", "formulas", "optim", "config"},
    "numpy_gpt": {"config", "data", "loop", "model", "optim"},
}
SWITCH = "plain_or_fast"
LIBRARIES = {SWITCH, "numpy", "torch", "tiktoken", "safetensors", "regex"}


def imports(name: str) -> set[str]:
    """The modules that a file imports, in full, anywhere in it."""
    parents, found = name.split(".")[:-1], set()
    for node in ast.walk(FILES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join(filter(None, [*package, node.module]))
            inner = {f"{module}.{alias.name}" for alias in node.names}
            found |= inner & FILES.keys() or {module}
    return found


def ours(name: str) -> set[str]:
    """The modules of ours that a file imports; the switch, which imports nothing, may be imported by all."""
    return {module for module in imports(name) if module.partition(".")[0] in {*PACKAGES, "scripts", "tests"}}


def top(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_the_imports_are_found():
    assert ours("minigpt.model") == {"minigpt.formulas", "minigpt.config", "minigpt.initial"}
    assert "minigpt.files.huggingface" in ours("minigpt.files.directory")
    assert top(imports("minigpt.optim")) == {"math", "torch", "minigpt"}


PLAIN = [name for name in FILES if not {"fast", "files"} & set(name.split("."))]


@pytest.mark.parametrize("name", [name for name in PLAIN if name.startswith("minigpt.") and "__init__" not in name])
def test_arrows_in_minigpt_go_one_way(name):
    assert ours(name) <= {f"minigpt.{other}" for other in ARROWS[name.removeprefix("minigpt.")]}


@pytest.mark.parametrize("room", ["fast", "files"])
def test_a_room_beside_the_plain_edition_knows_only_itself_and_that(room):
    for name in [name for name in FILES if name.split(".")[1:2] == [room]]:
        assert ours(name) <= {*PLAIN, *(other for other in FILES if other.split(".")[:2] == name.split(".")[:2])}, name


def test_the_loop_knows_neither_the_model_nor_fine_tuning():
    assert not {module for module in ours("minigpt.loop") if "model" in module or "sft" in module}


def test_nothing_builds_on_the_numpy_twin():
    assert not [name for name in FILES if "minigpt.numpy_gpt" in ours(name) and not name.endswith("__init__")]


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("decoding.")])
def test_decoding_knows_no_transformer(name):
    assert top(imports(name)) <= {"torch", "decoding", SWITCH} | sys.stdlib_module_names


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("sft.")])
def test_fine_tuning_builds_on_minigpt_alone(name):
    assert top(ours(name)) <= {"minigpt", "sft"}


@pytest.mark.claim("S5")
def test_fine_tuning_owns_no_loop():
    assert "minigpt.loop" in ours("sft.finetune")
    for name in [name for name in FILES if name.startswith("sft.")]:
        called = {node.attr for node in ast.walk(FILES[name]) if isinstance(node, ast.Attribute)}
        assert not called & {"backward", "zero_grad", "grad"}


@pytest.mark.parametrize("name", FILES)
def test_library_code_needs_few_libraries_and_no_script(name):
    extra = {"gguf"} if name == "minigpt.files.gguf" else set()
    assert top(imports(name)) <= {*PACKAGES, *LIBRARIES, *extra} | sys.stdlib_module_names
    assert not top(imports(name)) & {"argparse", "pickle", "scripts"}


@pytest.mark.parametrize("name", FILES)
def test_library_code_does_not_print_or_execute_text(name):
    called = [node.func for node in ast.walk(FILES[name]) if isinstance(node, ast.Call)]
    assert not {f.id for f in called if isinstance(f, ast.Name)} & {"print", "exec", "eval", "input", "breakpoint"}
    attributes = {ast.unparse(node) for node in ast.walk(FILES[name]) if isinstance(node, ast.Attribute)}
    assert not attributes & {"sys.stdout", "sys.stderr", "sys.argv", "os.environ"}


@pytest.mark.parametrize("name", FILES)
def test_importing_a_file_only_defines_things(name):
    calm = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in FILES[name].body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        only_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        assert isinstance(node, calm) or docstring or only_types, f"line {node.lineno}"
    assert not [node for node in ast.walk(FILES[name]) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("name", FILES)
def test_each_file_begins_by_saying_what_it_is(name):
    assert ast.get_docstring(FILES[name])
