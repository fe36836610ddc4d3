"""The lecture's statements: the code and the tests that show each, the demo's figure, what it is and what measured it.

python -m scripts.lab.claims
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scripts import sizes
from scripts.exercise import ROOT, find
from scripts.support.command_line import Parser, file_name, run

RESULTS = Path("runs/demo/results.json")
SCALE = Path("runs/scale/results.json")  # what `make scale` has measured


class Claim(NamedTuple):
    """A statement in our words, where the code is that shows it, and how it is measured."""

    statement: str
    code: str  # "file: name, name; file: name"
    measured: str = ""  # what the figure is
    by: str = ""  # the function that measures it, in the form of `code`
    figure: str | Callable[[dict], str] | None = None  # how to read it off the demo's results: a format, or a function


def _years(results: dict) -> str:
    speed = 6 * results["base"]["parameters"] * results["base"]["tokens_per_second"]  # FLOPs per second, as in sizes.py
    years = 6 * sizes.PUBLISHED["Llama 3 405B"] * sizes.TRAINING_TOKENS / speed / 3.156e7
    return f"{speed / 1e9:,.0f} GFLOP/s here: Llama 3 405B in {years / 1e6:,.0f} million years"


def _scale(results: dict) -> str:
    if "scale" not in results:
        return f"{_years(results)}; make scale measures the rest"
    plain, split = results["scale"]["plain"], results["scale"]["sharded"]
    kept = results["scale"]["recomputed"]["activations"] / plain["activations"]
    share = split["weights"] / plain["weights"]
    whose = f"each of {results['scale']['processes']} processes holds {share:.0%} of the weights"
    return f"{whose}; {kept:.0%} of the activations are kept when they are recomputed; {_years(results)}"


def _losses(first: float, last: float) -> str:
    from scripts.support.measuring.text_loss import told

    return f"loss {told(first)} to {told(last)}"


def _sizes_compared(results: dict) -> str:
    base, smaller = results["base"], results["smaller"]
    losses = _losses(smaller["val_loss"], base["val_loss"])
    facts = f"facts {smaller['cloze']:.0%} to {results['answers']['base_cloze']:.0%}"
    return f"{losses}, {facts}, at {base['parameters'] / smaller['parameters']:.0f} times the size"


def _tokens_per_second(results: dict) -> str:
    greedy = next(row for row in results["decoding"] if row["strategy"] == "greedy")
    return f"{1000 / greedy['ms_per_token']:,.0f} tokens per second"


def _different(results: dict) -> str:
    rows = results["decoding"]
    return f"{sum(row['second_run_differs'] for row in rows)} of {len(rows)} differ in a second run"


MEASURING = "scripts/support/measuring"
REPEATED = {
    "measured": "share of 4-grams that came before in the same text",
    "by": f"{MEASURING}/repetition.py: repetition",
}
CLAIMS = {
    "P1": Claim(
        "Text becomes a sequence of token ids",
        "minigpt/tokenizer.py: Tokenizer.train, Tokenizer.encode",
        "size of the vocabulary",
        "minigpt/tokenizer.py: learn_merges",
        "{base[vocab_size]} tokens learnt",
    ),
    "P2": Claim(
        "A decoder-only transformer gives a probability to every next token",
        "minigpt/model.py: GPT, Block, Attention, MLP",
        "numbers that the model learns",
        "scripts/support/pretraining.py: pretrain",
        "{base[parameters]:,} parameters",
    ),
    "P3": Claim(
        "Cross-entropy, an optimizer, a loop: the base model",
        "minigpt/loop.py: train; minigpt/formulas.py: cross_entropy; minigpt/optim.py: AdamW",
        "loss before the first step, and on validation text after the last, in nats per token",
        "minigpt/loop.py: train, evaluate",
        lambda results: _losses(results["base"]["first_loss"], results["base"]["val_loss"]),
    ),
    "P4": Claim(
        "At scale the hard part is engineering",
        "minigpt/fast/sharded.py: shard, recompute; scripts/sizes.py: training; minigpt/loop.py: train",
        "bytes that a process holds (`make scale`); how long Llama 3 405B would take at the demo's speed",
        "scripts/scale.py: measure; scripts/lab/claims.py: _years",
        _scale,
    ),
    "P5": Claim(
        "A base model has picked up knowledge",
        f"minigpt/loop.py: train; {MEASURING}/answers.py: cloze",
        "share of facts with which it completes a sentence",
        f"{MEASURING}/answers.py: cloze",
        "{answers[base_cloze]:.1%} of held-out facts",
    ),
    "P6": Claim(
        "A larger base model continues more sensibly",
        "scripts/support/demo_chapters.py: compare_with_smaller; scripts/experiments.py: EXPERIMENTS",
        "validation loss and facts known, of a smaller model and of the base model",
        "scripts/support/demo_chapters.py: compare_with_smaller",
        _sizes_compared,
    ),
    "G1": Claim(
        "Generation is a for-loop",
        "decoding/generate.py: generate_steps",
        "speed of greedy decoding, one prompt",
        "scripts/support/comparison.py: compare",
        _tokens_per_second,
    ),
    "G2": Claim(
        "It ends at an end token or the maximum length",
        "decoding/generate.py: why_stop",
        "share of the fine-tuned model's answers that end with the end token",
        f"{MEASURING}/answers.py: sft_answers",
        "{answers[sft_ended]:.1%} of answers end by it, the rest at 16 tokens",
    ),
    "G3": Claim(
        "Deterministic and stochastic algorithms",
        "decoding/generate.py: generate_steps, draw; decoding/beam.py: beam_search",
        "algorithms that give another text with another seed",
        "scripts/support/comparison.py: compare",
        _different,
    ),
    "G4": Claim(
        "Greedy takes the most probable token, and loops",
        "decoding/generate.py: generate_steps",
        figure="{algorithm[greedy][repetition]:.2f} of 4-grams repeated",
        **REPEATED,
    ),
    "G5": Claim(
        "Beam search keeps the k best paths",
        "decoding/beam.py: beam_search, beam_steps",
        figure="{algorithm[beam][repetition]:.2f} of 4-grams repeated",
        **REPEATED,
    ),
    "G6": Claim(
        "Multinomial sampling draws from all tokens",
        "decoding/generate.py: draw",
        figure="{algorithm[multinomial][repetition]:.2f} of 4-grams repeated",
        **REPEATED,
    ),
    "G7": Claim(
        "Top-k keeps the k most probable",
        "decoding/filters.py: top_k",
        figure="{algorithm[top_k][repetition]:.2f} of 4-grams repeated",
        **REPEATED,
    ),
    "G8": Claim(
        "Top-p keeps the smallest set that reaches p",
        "decoding/filters.py: top_p",
        figure="{algorithm[top_p][repetition]:.2f} of 4-grams repeated",
        **REPEATED,
    ),
    "G9": Claim(
        "Temperature sharpens or flattens",
        "decoding/filters.py: temperature",
        figure="{algorithm[temperature][repetition]:.2f} of 4-grams repeated",
        **REPEATED,
    ),
    "G10": Claim(
        "The best settings depend on the task",
        "scripts/support/strategies.py: TASKS",
        "tokens that a task's settings leave to choose from, for the next token of one prompt",
        f"scripts/support/comparison.py: tasks; {MEASURING}/distribution.py: kept",
        "tokens kept: code {task[code-generation][kept]}, creative writing {task[creative-writing][kept]}",
    ),
    "G11": Claim(
        "In practice: ids in, generate, text out; top-p doesn't loop",
        "scripts/generate.py: main; scripts/support/comparison.py: continue_prompt",
        figure="repeated: greedy {algorithm[greedy][repetition]:.2f}, top-p {algorithm[top_p][repetition]:.2f}",
        **REPEATED,
    ),
    "G12": Claim(
        "A playground with knobs to turn",
        "scripts/playground/views.py: next_token, run; scripts/playground/server.py: make_app",
        "time from a knob's move to all bars, all filters on, with a vocabulary of 49,152",
        "scripts/playground/views.py: knob_milliseconds",
        "{playground[knob_ms]:.0f} ms",
    ),
    "S1": Claim(
        "A base model that is asked continues the text",
        f"scripts/ask.py: main; {MEASURING}/answers.py: base_answers",
        "share of questions, as plain text, that the base model answers",
        f"{MEASURING}/answers.py: base_answers",
        "{answers[base_exact_raw]:.1%} answered",
    ),
    "S2": Claim(
        "Fine-tuning adapts completion to following instructions",
        "sft/finetune.py: fine_tune",
        "share of questions in fine-tuning's layout that are answered, before and after",
        f"{MEASURING}/answers.py: base_answers, sft_answers",
        "{answers[base_exact]:.1%} to {answers[sft_exact]:.1%}",
    ),
    "S3": Claim(
        "Prompt and response are laid out with special tokens",
        "sft/template.py: encode_conversation",
        "share of tokens that are targets: the responses and their end tokens",
        "scripts/support/demo_chapters.py: learn_to_answer",
        "{sft[learnt]:.0%} of the demonstrations' tokens are learnt",
    ),
    "S4": Claim(
        "Demonstrations come in many formats, and are few",
        "sft/files/demonstrations.py: read_examples, messages_of",
        "number of demonstrations, and of documents in pretraining",
        "scripts/support/demo_chapters.py: tell",
        "{base[demonstrations]:,} for {base[documents]:,} documents",
    ),
    "S5": Claim(
        "The training loop is the same; only the data is new",
        "sft/finetune.py: fine_tune; minigpt/loop.py: train",
        "steps of pretraining and of fine-tuning, and the function that both called",
        "scripts/support/demo_chapters.py: learn_to_continue, learn_to_answer",
        "{base[steps]} and {sft[steps]} steps, both of {sft[loop]}",
    ),
    "S6": Claim(
        "The fine-tuned model answers",
        "sft/finetune.py: fine_tune; scripts/ask.py: main",
        "share of questions answered exactly, about people held out of fine-tuning",
        f"{MEASURING}/answers.py: sft_answers",
        "{answers[sft_exact]:.1%}; other wordings {answers[sft_exact_unseen_phrasing]:.1%}",
    ),
    "S7": Claim("It isn't the end: reinforcement learning follows", "the next lecture's topic"),
}
EXEMPT = {"S7": "the next lecture"}  # this one may lack what all others have


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
    lacks = [f"code ({part} is not there)" for part in not_there(claim.code)]
    if not tests:
        lacks.append("a test")
    if claim.figure is None or (results is not None and figure(claim, results) is None):
        lacks.append("a figure")
    if claim.figure is not None:
        lacks += [f"a measurement ({part} is not there)" for part in not_there(claim.by)]
        lacks += [] if claim.measured else ["a description of its figure"]
    return lacks


def not_there(code: str) -> list[str]:
    """Those parts of "file: name, name; file: name" that don't exist.

    >>> not_there("minigpt/loop.py: train, trane")
    ['minigpt/loop.py: train, trane']
    """
    missing = []
    for part in code.split(";"):
        file, _, names = part.strip().partition(": ")
        try:
            source = (ROOT / file).read_text(encoding="utf-8")
            for name in names.split(", "):
                find(source, name)
        except (OSError, ValueError):
            missing.append(part.strip() or "none")
    return missing


def figure(claim: Claim, results: dict) -> str | None:
    """A statement's figure, None when the results don't have it."""
    try:
        by_name = {
            "algorithm": {row["strategy"]: row for row in results.get("decoding", [])},
            "task": {row["task"]: row for row in results.get("tasks", [])},
        }
        if isinstance(claim.figure, str):
            return claim.figure.format(**results, **by_name)
        return claim.figure(results) if claim.figure else None
    except (LookupError, StopIteration, TypeError, ValueError, AttributeError):
        return None


def main() -> None:
    parser = Parser(__doc__, prog="scripts.lab.claims")
    parser.add_argument("--results", type=file_name, help=f"of a demo (default: {RESULTS}, if it is there)")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/lecture.md")
    args = parser.parse_args()

    # read
    tests = tests_of_claims(ROOT / "tests")
    path = args.results or RESULTS
    results = read_results(path) if args.results or path.exists() else None
    if results and SCALE.exists():
        results["scale"] = read_results(SCALE)
    figures = {number: figure(claim, results) for number, claim in CLAIMS.items()} if results else {}

    # print
    if args.markdown:
        print_markdown(figures)
        return
    for number, claim in CLAIMS.items():
        print_claim(number, claim, tests[number], figures.get(number))
    print(f"\nexempt: {', '.join(f'{number} ({why})' for number, why in EXEMPT.items())}")

    # complain
    complete = True
    for number, claim in CLAIMS.items():
        lacks = lacking(claim, tests[number], results)
        if lacks and number not in EXEMPT:
            print(f"{number} lacks {' and '.join(lacks)}")
            complete = False
    if not complete:
        sys.exit(1)


def read_results(path: Path) -> dict:
    """A demo's results.json. ValueError that names the file when it holds anything else."""
    from minigpt.files.reading import read_json  # here: it loads torch, which --help can do without

    return read_json(path)


def print_claim(number: str, claim: Claim, tests: list[str], measured: str | None) -> None:
    more = f" and {len(tests) - 2} more" if len(tests) > 2 else ""
    print(f"\n{number:4} {claim.statement}")
    print(f"     code      {claim.code or 'none yet'}")
    print(f"     tests     {', '.join(tests[:2]) + more or 'none yet'}")
    if claim.figure:
        print(f"     figure    {measured or 'run make demo'}")
        print(f"     which is  {claim.measured}")
        print(f"     by        {claim.by}")


def print_markdown(figures: dict[str, str | None]) -> None:
    print("| | statement | code | in a demo | which is |\n|---|---|---|---|---|")
    for number, claim in CLAIMS.items():
        code = f"`{claim.code}`" if claim.code else "open"
        print(f"| {number} | {claim.statement} | {code} | {figures.get(number) or ''} | {claim.measured} |")


if __name__ == "__main__":
    run(main)
