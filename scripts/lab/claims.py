"""The lecture's statements, each with the code and the tests that show it and the figure that the demo measured.

python -m scripts.lab.claims
"""

import argparse
import ast
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scripts import sizes
from scripts.exercise import ROOT, find
from scripts.support.command_line import run

RESULTS = Path("runs/demo/results.json")


class Claim(NamedTuple):
    """A statement in our words, where the code is, and how to read its figure off the demo's results."""

    statement: str
    code: str
    figure: Callable[[dict], str] | None = None


def _strategy(results: dict, name: str) -> dict:
    return next(row for row in results["decoding"] if row["strategy"] == name)


def _years(results: dict) -> str:
    speed = 6 * results["base"]["parameters"] * results["base"]["tokens_per_second"]  # FLOPs a second, as in sizes.py
    years = 6 * sizes.PUBLISHED["Llama 3 405B"] * sizes.TRAINING_TOKENS / speed / 3.156e7
    return f"{speed / 1e9:,.0f} GFLOP/s here: Llama 3 405B in {years / 1e6:,.0f} million years"


def _tasks(results: dict) -> str:
    kept = {row["task"]: row["kept"] for row in results["tasks"]}
    return f"tokens kept: code {kept['code-generation']}, creative writing {kept['creative-writing']}"


def _repeats(name: str) -> Callable[[dict], str]:
    return lambda r: f"{_strategy(r, name)['repetition']:.2f} of 4-grams repeated"


CLAIMS = {
    "P1": Claim("Text becomes a sequence of token ids", "minigpt/tokenizer.py: learn_merges, Tokenizer.encode_by_hand",
                lambda r: f"{r['base']['vocab_size']} tokens learnt"),
    "P2": Claim("A decoder-only transformer gives a probability to every next token", "minigpt/model.py: GPT",
                lambda r: f"{r['base']['parameters']:,} parameters"),
    "P3": Claim("Cross-entropy, an optimizer, a loop: the base model", "minigpt/loop.py: train",
                lambda r: f"loss {r['base']['first_loss']:.2f} to {r['base']['val_loss']:.3f}"),
    "P4": Claim("At scale the hard part is engineering", "scripts/sizes.py: training; minigpt/loop.py: train",
                _years),
    "P5": Claim("A base model has picked up knowledge", "scripts/support/measuring/answers.py: cloze",
                lambda r: f"{r['answers']['base_cloze']:.1%} of held-out facts"),
    "P6": Claim("A larger base model continues more sensibly", "scripts/experiments.py: EXPERIMENTS",
                lambda r: f"loss {r['smaller']['val_loss']:.3f} to {r['base']['val_loss']:.3f}, facts "
                          f"{r['smaller']['cloze']:.0%} to {r['answers']['base_cloze']:.0%}, at "
                          f"{r['base']['parameters'] / r['smaller']['parameters']:.0f} times the size"),
    "G1": Claim("Generation is a for-loop", "decoding/generate.py: generate_steps",
                lambda r: f"{1000 / _strategy(r, 'greedy')['ms_per_token']:,.0f} turns a second"),
    "G2": Claim("It ends at an end token or the maximum length", "decoding/generate.py: why_stop",
                lambda r: f"{r['answers']['sft_ended']:.1%} of answers end by it, the rest at 16 tokens"),
    "G3": Claim("Deterministic and stochastic algorithms", "decoding/generate.py: generate_steps, draw",
                lambda r: f"{sum(row['second_run_differs'] for row in r['decoding'])} of 7 differ in a second run"),
    "G4": Claim("Greedy takes the most probable token, and loops", "decoding/generate.py: generate_steps",
                _repeats("greedy")),
    "G5": Claim("Beam search keeps the k best paths", "decoding/beam.py: beam_search", _repeats("beam")),
    "G6": Claim("Multinomial sampling draws from all tokens", "decoding/generate.py: draw", _repeats("multinomial")),
    "G7": Claim("Top-k keeps the k most probable", "decoding/filters.py: top_k", _repeats("top_k")),
    "G8": Claim("Top-p keeps the smallest set that reaches p", "decoding/filters.py: top_p", _repeats("top_p")),
    "G9": Claim("Temperature sharpens or flattens", "decoding/filters.py: temperature", _repeats("temperature")),
    "G10": Claim("The best settings depend on the task", "scripts/support/strategies.py: TASKS", _tasks),
    "G11": Claim("In practice: ids in, generate, text out; top-p doesn't loop", "scripts/generate.py: main",
                 lambda r: f"repeated: greedy {_strategy(r, 'greedy')['repetition']:.2f}, "
                           f"top-p {_strategy(r, 'top_p')['repetition']:.2f}"),
    "G12": Claim("A playground with knobs to turn", ""),
    "S1": Claim("A base model that is asked goes on writing", "scripts/support/measuring/answers.py: base_answers",
                lambda r: f"{r['answers']['base_exact_raw']:.1%} answered"),
    "S2": Claim("Fine-tuning adapts completion to following instructions", "sft/finetune.py: fine_tune",
                lambda r: f"{r['answers']['base_exact']:.1%} to {r['answers']['sft_exact']:.1%}"),
    "S3": Claim("Prompt and response are laid out with special tokens", "sft/template.py: encode_conversation",
                lambda r: f"{r['sft']['learnt']:.0%} of the demonstrations' tokens are learnt"),
    "S4": Claim("Demonstrations come in many formats, and are few", "sft/data.py: read_examples",
                lambda r: f"{r['base']['demonstrations']:,} for {r['base']['documents']:,} documents"),
    "S5": Claim("The training loop is the same; only the data is new", "sft/finetune.py: fine_tune",
                lambda r: f"{r['base']['steps']} and {r['sft']['steps']} steps, both of {r['sft']['loop']}"),
    "S6": Claim("The fine-tuned model answers", "scripts/support/measuring/answers.py: sft_answers",
                lambda r: f"{r['answers']['sft_exact']:.1%}; other wordings "
                          f"{r['answers']['sft_exact_unseen_phrasing']:.1%}"),
    "S7": Claim("It isn't the end: reinforcement learning follows", "the next lecture's topic"),
}  # fmt: skip
EXEMPT = {"G12": "open", "S7": "the next lecture"}  # these may lack what all others have


def tests_of_claims(directory: Path) -> dict[str, list[str]]:
    """Which tests carry which statement's mark, read from the test files: {"G8": ["tests/….py::test_…"]}."""
    found = defaultdict(list)
    for path in sorted(directory.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for mark in getattr(node, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.claim":
                    found[mark.args[0].value].append(f"{directory.name}/{path.name}::{node.name}")
    return found


def lacking(claim: Claim, tests: list[str], results: dict | None) -> list[str]:
    """What a statement lacks: code that is there, a test, a figure; without results, a way to read one is enough."""
    lacks = []
    for part in claim.code.split(";"):
        file, _, names = part.strip().partition(": ")
        try:
            source = (ROOT / file).read_text(encoding="utf-8")
            for name in names.split(", "):
                find(source, name)
        except (OSError, ValueError):
            lacks.append(f"code ({part.strip() or 'none'} is not there)")
    if not tests:
        lacks.append("a test")
    if claim.figure is None or (results is not None and figure(claim, results) is None):
        lacks.append("a figure")
    return lacks


def figure(claim: Claim, results: dict) -> str | None:
    """A statement's figure, None when the results don't have it."""
    try:
        return claim.figure(results) if claim.figure else None
    except (KeyError, StopIteration):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.lab.claims", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, help=f"of a demo (default: {RESULTS}, if it is there)")
    parser.add_argument("--markdown", action="store_true", help="print the README's table")
    args = parser.parse_args()
    tests, path = tests_of_claims(ROOT / "tests"), args.results or RESULTS
    results = json.loads(path.read_text()) if args.results or path.exists() else None
    figures = {number: figure(claim, results) for number, claim in CLAIMS.items()} if results else {}
    if args.markdown:
        print("| | statement | code | in a demo |\n|---|---|---|---|")
        for number, claim in CLAIMS.items():
            code = f"`{claim.code}`" if claim.code else "open"
            print(f"| {number} | {claim.statement} | {code} | {figures.get(number) or ''} |")
        return
    lacks = {number: lacking(claim, tests[number], results) for number, claim in CLAIMS.items()}
    for number, claim in CLAIMS.items():
        shown = tests[number]
        more = f" and {len(shown) - 2} more" if len(shown) > 2 else ""
        print(f"\n{number:4} {claim.statement}")
        print(f"     code    {claim.code or 'none yet'}")
        print(f"     tests   {', '.join(shown[:2]) + more or 'none yet'}")
        if claim.figure:
            print(f"     figure  {figures.get(number) or 'run make demo'}")
    print(f"\nexempt: {', '.join(f'{number} ({why})' for number, why in EXEMPT.items())}")
    lacks = {number: what for number, what in lacks.items() if what and number not in EXEMPT}
    for number, what in lacks.items():
        print(f"{number} lacks {' and '.join(what)}")
    if lacks:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
