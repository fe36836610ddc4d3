"""Break the code on purpose, one small fault at a time, and see whether its tests notice (make mutants).

A fault changes one spot of a file's syntax tree: < becomes <=, + becomes -, 1 becomes 2, max becomes min, a statement or
an argument is left out. Each runs in a copy of the project. One that the tests let pass is a property that nobody has
written down, unless the change makes no difference: EQUIVALENT says why. Exit status 1 if another survives.

python -m scripts.lab.mutants decoding/filters.py --sample 20     # any file of minigpt, decoding or sft
"""

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from scripts.support.command_line import Parser, run, whole

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("plain_or_fast", "minigpt", "decoding", "sft", "scripts", "tests", "pyproject.toml")
SECONDS = 300  # a fault that makes a loop endless counts as caught
DEFAULT = sorted([*(ROOT / "decoding").glob("*.py"), *(ROOT / "decoding" / "fast").glob("*.py")])

TESTS = {  # the tests nearest to a file, the nearest first; a file not listed: those that bear its name or mention it
    "plain_or_fast/__init__.py": "architecture formulas model",
    "decoding/filters.py": "filters slides generate distributions twins oracles beam stops",
    "decoding/generate.py": "generate slides filters distributions invariance stops",
    "decoding/stops.py": "stops twins",
    "decoding/stream.py": "stops generate",
    "decoding/settings.py": "generate filters beam stops",
    "decoding/protocol.py": "ids oracles invariance",
    "decoding/beam.py": "beam slides oracles stops",
    "decoding/fast/ranking.py": "twins filters beam",
    "decoding/fast/batch.py": "twins generate invariance stops",
    "minigpt/config.py": "config model formulas loop",
    "minigpt/corpus.py": "corpus",
    "minigpt/data.py": "data loop",
    "minigpt/formulas.py": "formulas model",
    "minigpt/initial.py": "model loop",
    "minigpt/loop.py": "loop checkpoint optim",
    "minigpt/model.py": "model formulas huggingface",
    "minigpt/numpy_gpt.py": "numpy_gpt",
    "minigpt/optim.py": "optim loop",
    "minigpt/tokenizer.py": "tokenizer real_models malformed",
    "minigpt/fast/encoding.py": "tokenizer",
    "minigpt/fast/engine.py": "model",
    "minigpt/fast/engine_numpy.py": "model",
    "minigpt/fast/kernels.py": "formulas model",
    "minigpt/fast/merges.py": "tokenizer corpus",
    "minigpt/fast/muon.py": "muon loop sharded",
    "minigpt/fast/processes.py": "distributed",
    "minigpt/fast/sharded.py": "sharded",
    "minigpt/files/checkpoint.py": "checkpoint writing kill sharded",
    "minigpt/files/directory.py": "huggingface malformed real_models ends checkpoint chat_template",
    "minigpt/files/gguf.py": "real_models malformed",
    "minigpt/files/gpt2_ranks.py": "tokenizer",
    "minigpt/files/huggingface.py": "huggingface real_models malformed",
    "minigpt/files/reading.py": "sft_data malformed huggingface",
    "minigpt/files/shards.py": "sharded",
    "minigpt/files/text_files.py": "corpus sft_data",
    "minigpt/files/token_file.py": "corpus data",
    "minigpt/files/tokenizer_json.py": "tokenizer real_models huggingface malformed",
    "minigpt/files/writing.py": "writing checkpoint commands",
    "sft/data.py": "sft_data finetune",
    "sft/finetune.py": "finetune",
    "sft/template.py": "template ends chat_template finetune",
    "sft/files/chat_template.py": "chat_template ends real_models",
    "sft/files/demonstrations.py": "sft_data malformed finetune",
    "sft/files/sandbox.py": "chat_template malformed",
}
# A failing example needn't be made smaller here, which hypothesis would spend most of the time on.
NO_SHRINKING = """
from hypothesis import Phase
settings.register_profile("mutants", settings.get_profile("course"), phases=[Phase.explicit, Phase.generate])
settings.load_profile("mutants")
"""

SWAPPED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip
PAIRS = "max min, amax amin, argmax argmin, any all, zeros ones, zeros_like ones_like, softmax log_softmax"
CALLS = {a: b for pair in PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
TYPES = "dtype memory_format device"  # arguments that say how, not what

# (file, function, change): why no test can notice
EQUIVALENT = {
    ("decoding/beam.py", "beam_steps", "best[-1].score >= limit -> best[-1].score > limit"):
        "equals rank by who ended first, so what draws level later never enters the list: only slower",
    ("decoding/filters.py", "repetition_penalty", "seen > 0 -> seen >= 0"):
        "zero divided by the penalty is zero, and so is zero times the penalty",
    ("decoding/filters.py", "top_p", "mass >= p - ROUNDING -> mass > p - ROUNDING"):
        "the target is p - ROUNDING, which no sum of probabilities meets but by chance",
    ("decoding/filters.py", "top_p", "logits.sort(dim=-1, descending=True, stable=True) -> logits.sort(descending=True, stable=True)"):
        "the last dimension is the default",
    ("decoding/filters.py", "_rows", "zip(logits.view(-1, logits.shape[-1]), [histories] if logits.dim() == 1 else histories, strict=True) -> zip(logits.view(-1, logits.shape[-1]), [histories] if logits.dim() == 1 else histories)"):
        "an invariant of ours: users' histories are counted by `checked`, and the loops have one per row",
    ("minigpt/files/reading.py", "read_text", "regular_file(path).stat().st_size > MOST_TEXT -> regular_file(path).stat().st_size >= MOST_TEXT"):
        "no rule tells a text of just this size from one a byte larger",
    ("minigpt/files/text_files.py", "cut_documents", "len(text) > BLOCK -> len(text) >= BLOCK"):
        "what is exactly a block long may be cut or not: the ids are the same",
    ("minigpt/fast/encoding.py", "merge_all", "2 -> 3 in after = list(range(1, size + 2))"):
        "what stands after the last byte is never looked up",
    ("minigpt/fast/engine.py", "State", "0 -> 1 in self.filled = torch.empty(len(lengths), 0, dtype=torch.bool, device=weight.device)"):
        "a place is written before any step reads it",
    ("minigpt/fast/engine.py", "State", "sum((parameter.numel() for parameter in model.parameters())) <= SMALL -> sum((parameter.numel() for parameter in model.parameters())) < SMALL"):
        "at the border itself both engines are as good; they give the same logits",
    ("minigpt/fast/kernels.py", "angles", "-1 -> 1"):
        "the angles have two dimensions: the last one is number 1",
    ("minigpt/fast/kernels.py", "attention", "128 -> 129 in if T == 1 or query.is_cuda or (S >= 128 and query.dtype != torch.bfloat16):"):
        "where one kernel becomes faster than another; both give the same",
    ("minigpt/fast/muon.py", "Muon", "rows > columns -> rows >= columns"):
        "a square matrix may be transposed: its directions come out transposed, and so are the weights",
    ("minigpt/fast/sharded.py", "accumulate_gradients", "-B // size() -> -B * size()"):
        "more rows without a target: only slower",
    ("minigpt/files/huggingface.py", "_laid_out", "2 -> 3 in return (by_columns if dtype.itemsize > 2 else by_columns.contiguous()).copy_(tensor)"):
        "no number type has three bytes",
    ("minigpt/files/token_file.py", "write_ids", "0 -> 1 in header = {'descr': np.lib.format.dtype_to_descr(dtype), 'fortran_order': False, 'shape': (0,)}"):
        "it keeps the place of the header that is written at the end",
    ("sft/files/sandbox.py", "Sandbox", "max(abs(left), abs(right)) > 1000000.0 -> max(abs(left), abs(right)) >= 1000000.0"):
        "no rule tells numbers of just this size from those a little larger",
    ("minigpt/numpy_gpt.py", "cross_entropy", "-1 -> 1"):
        "what is learnt is laid out in two dimensions, and the last of them is number 1",
    ("sft/files/sandbox.py", "compiled", "50 -> 51 in sandbox.price += len(source) // 50"):
        "no rule says what a character of a template costs to within 2 %",
    ("sft/files/sandbox.py", "compiled", "len(source) > LONGEST -> len(source) >= LONGEST"):
        "no rule tells a template of just this length from one a character longer",
}  # fmt: skip


class Fault(NamedTuple):
    file: str  # from the project's root
    function: str
    change: str
    source: str  # of the whole file, with the fault

    @property
    def equivalent(self) -> str:
        return EQUIVALENT.get(self[:3], "")


def faults_of(file: str) -> list[Fault]:
    """All faults of a file: it is parsed anew after every edit, so none of them goes stale."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = []
    for owner in tree.body:
        for node in ast.walk(owner):
            if isinstance(owner, ast.FunctionDef | ast.ClassDef) and not is_apart(owner, node):
                for changed in changes(node):
                    found.append(
                        Fault(file, owner.name, described(owner, node, changed), replaced(tree, node, changed))
                    )
    return found


def is_apart(owner: ast.AST, node: ast.AST) -> bool:
    """Whether a node is what no test should notice: a decorator, an annotation, a message, a default."""
    apart = []
    for part in ast.walk(owner):
        apart += getattr(part, "decorator_list", [])
        apart += [part.annotation] if getattr(part, "annotation", None) else []
        apart += [part.returns] if getattr(part, "returns", None) else []
        apart += [part] if isinstance(part, ast.JoinedStr | ast.Raise) else []
        apart += filter(None, [*part.defaults, *part.kw_defaults]) if isinstance(part, ast.arguments) else []
    return any(node is inner for part in apart for inner in ast.walk(part))


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """The faults that can be made at one node."""
    changed = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        changed.ops[0] = SWAPPED[type(node.ops[0])]()
        yield changed
    elif isinstance(node, ast.BoolOp | ast.BinOp) and type(node.op) in SWAPPED:
        changed.op = SWAPPED[type(node.op)]()
        yield changed
    elif isinstance(node, ast.UnaryOp):
        yield changed.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif is_left_out(node):
        yield ast.Pass()
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in CALLS:
            setattr(changed.func, "attr" if isinstance(node.func, ast.Attribute) else "id", CALLS[name])
            yield changed
        for i, keyword in enumerate(node.keywords):
            if keyword.arg and keyword.arg not in TYPES.split():
                shorter = copy.deepcopy(node)
                del shorter.keywords[i]
                yield shorter


def is_left_out(node: ast.AST) -> bool:
    """Whether a fault is to do without this statement: an if without else, a +=, a call for its effect."""
    if isinstance(node, ast.If):
        return not node.orelse
    return isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))


def described(owner: ast.AST, before: ast.AST, after: ast.AST) -> str:
    """The change as text; for a mere number also the statement that it stands in."""
    old, new = (ast.unparse(node).split("\n")[0] for node in (before, after))
    if not isinstance(before, ast.Constant):
        return f"{old} -> {new}"
    around = [node for node in ast.walk(owner) if isinstance(node, ast.stmt) and before in ast.walk(node)]
    return f"{old} -> {new} in {ast.unparse(around[-1]).splitlines()[0]}"


def replaced(tree: ast.Module, node: ast.AST, changed: ast.AST) -> str:
    """The source of the file with one node in another's place."""

    class Replace(ast.NodeTransformer):
        def visit(self, each: ast.AST) -> ast.AST:
            return changed if each is node else self.generic_visit(each)

    copied = {}
    whole = copy.deepcopy(tree, copied)
    node = copied[id(node)]
    return ast.unparse(ast.fix_missing_locations(Replace().visit(whole)))


def tests_of(file: str) -> list[str]:
    """The test files of a file, the nearest first; its own doctests lead."""
    if file in TESTS:
        room = "decoding_" if file.startswith("decoding") else ""
        return [file, *(f"tests/test_{room}{name}.py" for name in TESTS[file].split())]
    stem = Path(file).stem
    mention = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if stem in path.read_text(encoding="utf-8")]
    mention.sort(key=lambda path: path.stem != f"test_{stem}")
    return [file, *(f"tests/{path.name}" for path in mention)]


def copy_project(target: Path) -> Path:
    target.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target / name)
    with open(target / "tests/conftest.py", "a", encoding="utf-8") as file:
        file.write(NO_SHRINKING)
    return target


def survives(fault: Fault, project: Path) -> bool:
    """Whether the tests pass on a copy of the project with this fault."""
    path = project / fault.file
    before = path.read_text(encoding="utf-8")
    path.write_text(fault.source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", *tests_of(fault.file)]
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.run(command, cwd=project, env=environment, timeout=SECONDS, **quiet).returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(before, encoding="utf-8")


def main() -> int:
    parser = Parser(__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="which to break (default: those of decoding)")
    parser.add_argument(
        "--sample", type=whole(0), default=40, help="how many faults, drawn at random (default 40; 0: all)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="of the drawing (default 0)")
    parser.add_argument("--only", metavar="TEXT", default="", help="the faults whose function or change has this text")
    parser.add_argument("--jobs", type=whole(1, 256), default=2, help="how many at a time (default 2)")
    parser.add_argument("--list", action="store_true", help="only show the faults")
    arguments = parser.parse_args()

    files = arguments.files or [path.relative_to(ROOT).as_posix() for path in DEFAULT]
    chosen = [
        fault for file in files for fault in faults_of(file) if arguments.only in f"{fault.function} {fault.change}"
    ]
    if arguments.sample and arguments.sample < len(chosen):
        chosen = random.Random(arguments.seed).sample(chosen, arguments.sample)
    if arguments.list:
        for fault in chosen:
            print(f"{fault.file}  {fault.function}: {fault.change}")
        return 0

    started, missed, equivalent = time.perf_counter(), [], 0
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(arguments.jobs) as pool:
        projects = Queue()
        for job in range(arguments.jobs):
            projects.put(copy_project(Path(directory, str(job))))

        def tried(fault: Fault) -> bool:
            project = projects.get()
            try:
                return survives(fault, project)
            finally:
                projects.put(project)

        for file in sorted({fault.file for fault in chosen}):
            sound = Fault(file, "", "", (ROOT / file).read_text(encoding="utf-8"))
            if not tried(sound):
                print(f"the tests of {file} fail without any fault: mend that first")
                return 2
        for fault, survived in zip(chosen, pool.map(tried, chosen)):
            verdict = "caught" if not survived else "equivalent" if fault.equivalent else "SURVIVED"
            equivalent += verdict == "equivalent"
            missed += [fault] if verdict == "SURVIVED" else []
            print(f"{verdict:10}  {fault.file}  {fault.function}: {fault.change}", flush=True)
    caught = len(chosen) - equivalent - len(missed)
    print(
        f"{len(chosen)} faults: {caught} caught, {equivalent} equivalent, {len(missed)} survived "
        f"({time.perf_counter() - started:.0f} s)"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    run(main)
