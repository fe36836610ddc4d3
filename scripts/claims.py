"""The lecture's statements, each with the code and the tests that show it and the figure that the demo measured.

python -m scripts.claims
"""

import argparse
import ast
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scripts.common import run


class Claim(NamedTuple):
    """A statement in our words, where the code is, and how to read its figure off the demo's results."""

    statement: str
    code: str
    figure: Callable[[dict], str] | None = None


def _strategy(results: dict, name: str) -> dict:
    return next(row for row in results["decoding"] if row["strategy"] == name)


def _repeats(name: str) -> Callable[[dict], str]:
    return lambda r: f"{_strategy(r, name)['repetition']:.2f} of 4-grams repeated"


CLAIMS = {
    "P1": Claim("Text becomes a sequence of token ids", "minigpt/tokenizer.py: Tokenizer.train, encode",
                lambda r: f"{r['base']['vocab_size']} tokens learnt"),
    "P2": Claim("A decoder-only transformer gives a probability to every next token", "minigpt/model.py: GPT",
                lambda r: f"{r['base']['parameters']:,} parameters"),
    "P3": Claim("Cross-entropy, an optimizer, a loop: the base model", "minigpt/loop.py: train",
                lambda r: f"loss {r['base']['first_loss']:.2f} to {r['base']['val_loss']:.3f}"),
    "P4": Claim("At scale the hard part is engineering", "scripts/sizes.py; minigpt/loop.py: train"),
    "P5": Claim("A base model has picked up knowledge", "scripts/measure.py: cloze",
                lambda r: f"{r['answers']['base_cloze']:.1%} of held-out facts"),
    "P6": Claim("A larger base model continues more sensibly", "minigpt/config.py: GPTConfig.gpt2"),
    "G1": Claim("Generation is a for-loop", "decoding/generate.py: generate_steps"),
    "G2": Claim("It ends at an end token or the maximum length", "decoding/generate.py: generate"),
    "G3": Claim("Deterministic and stochastic algorithms", "decoding/generate.py: draw",
                lambda r: f"{sum(row['second_run_differs'] for row in r['decoding'])} of 7 differ in a second run"),
    "G4": Claim("Greedy takes the most probable token, and loops", "decoding/generate.py: generate",
                _repeats("greedy")),
    "G5": Claim("Beam search keeps the k best paths", "decoding/beam.py: beam_search", _repeats("beam")),
    "G6": Claim("Multinomial sampling draws from all tokens", "decoding/generate.py: draw", _repeats("multinomial")),
    "G7": Claim("Top-k keeps the k most probable", "decoding/filters.py: top_k", _repeats("top_k")),
    "G8": Claim("Top-p keeps the smallest set that reaches p", "decoding/filters.py: top_p", _repeats("top_p")),
    "G9": Claim("Temperature sharpens or flattens", "decoding/filters.py: temperature", _repeats("temperature")),
    "G10": Claim("The best settings depend on the task", "scripts/strategies.py: TASKS"),
    "G11": Claim("In practice: ids in, generate, text out; top-p doesn't loop", "scripts/generate.py",
                 lambda r: f"repeated: greedy {_strategy(r, 'greedy')['repetition']:.2f}, "
                           f"top-p {_strategy(r, 'top_p')['repetition']:.2f}"),
    "G12": Claim("A playground with knobs to turn", ""),
    "S1": Claim("A base model that is asked goes on writing", "scripts/measure.py: base_answers",
                lambda r: f"{r['answers']['base_exact_raw']:.1%} answered"),
    "S2": Claim("Fine-tuning adapts completion to following instructions", "sft/finetune.py: fine_tune",
                lambda r: f"{r['answers']['base_exact']:.1%} to {r['answers']['sft_exact']:.1%}"),
    "S3": Claim("Prompt and response are laid out with special tokens", "sft/template.py: encode_conversation"),
    "S4": Claim("Demonstrations come in many formats, and are few", "sft/data.py: read_examples",
                lambda r: f"{r['base']['demonstrations']:,} for {r['base']['documents']:,} documents"),
    "S5": Claim("The training loop is the same; only the data is new", "sft/finetune.py: fine_tune"),
    "S6": Claim("The fine-tuned model answers", "scripts/measure.py: sft_answers",
                lambda r: f"{r['answers']['sft_exact']:.1%}; other wordings "
                          f"{r['answers']['sft_exact_unseen_phrasing']:.1%}"),
    "S7": Claim("It isn't the end: reinforcement learning follows", "the next lecture's topic"),
}  # fmt: skip


def tests_of_claims(directory: Path) -> dict[str, list[str]]:
    """Which tests carry which statement's mark, read from the test files: {"G8": ["tests/….py::test_…"]}."""
    found = defaultdict(list)
    for path in sorted(directory.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for mark in getattr(node, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.claim":
                    found[mark.args[0].value].append(f"{directory.name}/{path.name}::{node.name}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.claims", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("runs/demo/results.json"), help="(default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the README's table")
    args = parser.parse_args()
    tests = tests_of_claims(Path(__file__).parent.parent / "tests")
    results = json.loads(args.results.read_text()) if args.results.exists() else None
    if args.markdown:
        print("| | statement | code | in a demo |\n|---|---|---|---|")
        for number, claim in CLAIMS.items():
            figure = claim.figure(results) if claim.figure and results else ""
            print(f"| {number} | {claim.statement} | {f'`{claim.code}`' if claim.code else 'open'} | {figure} |")
        return
    open_claims = []
    for number, claim in CLAIMS.items():
        print(f"\n{number:4} {claim.statement}")
        print(f"     code    {claim.code or 'none yet'}")
        shown = tests.get(number, [])
        more = f" and {len(shown) - 2} more" if len(shown) > 2 else ""
        print(f"     tests   {', '.join(shown[:2]) + more or 'none yet'}")
        if claim.figure:
            print(f"     figure  {claim.figure(results) if results else 'run make demo'}")
        if not (claim.code and shown):
            open_claims.append(number)
    print(f"\nopen, no code or no test yet: {', '.join(open_claims) or 'none'}")


if __name__ == "__main__":
    run(main)
