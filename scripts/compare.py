"""Every algorithm on one prompt: what it writes, and what it does to the probabilities (G1 to G11).

python -m scripts.compare --prompt "Meet Selma. She" --model base --runs 5
"""

import argparse
import math
import time
from pathlib import Path

from scripts.support import measure
from scripts.support.common import open_model, run, table, write_json
from scripts.support.strategies import STRATEGIES, TASKS, continue_prompt, distinct2, repetition

NEW_TOKENS = 110  # long enough for greedy decoding to fall into its loop
TOP_K, TOP_P = STRATEGIES["top_k"][1]["top_k"], STRATEGIES["top_p"][1]["top_p"]


class Endless:
    """A model whose special tokens are taken away, so that every algorithm has to fill the same length."""

    def __init__(self, model, special: list[int]):
        self.model, self.special, self.context_length = model, special, model.context_length
        self.reorder = model.reorder

    def prefill(self, prompts):
        return self._without_end(*self.model.prefill(prompts))

    def step(self, state, ids):
        return self._without_end(*self.model.step(state, ids))

    def _without_end(self, logits, state):
        return logits.index_fill(-1, logits.new_tensor(self.special).long(), -math.inf), state


def trace(
    model, tok, prompt: str, seed: int = 0, runs: int = 2, new_tokens: int = NEW_TOKENS, look_at: str | None = None
) -> dict:
    """Everything that the table and the pictures show, as plain data.

    prompt is continued; the distributions and the beam tree are those after look_at (the prompt, if not given).
    """
    ids, look_at = measure.as_text(tok, prompt), look_at or prompt
    looked_at = measure.as_text(tok, look_at)
    endless = Endless(model, [*tok.special.values()])
    words = look_at.split(" ")
    starts = [" ".join(words[: i + 1]) for i in range(len(words))][-3:]
    return {
        "prompt": prompt,
        "look_at": look_at,
        "continuations": [compare(endless, tok, ids, name, seed, runs, new_tokens) for name in STRATEGIES],
        "next_token": next_token(model, tok, looked_at),
        "kept": kept_after(model, tok, starts + [look_at + best for best in best_paths(model, tok, looked_at)]),
        "kept_by_step": kept_by_step(endless, ids, seed, new_tokens),
        "tree": beam_tree(model, tok, looked_at),
        "tasks": tasks(model, looked_at),
    }


def compare(model, tok, ids: list[int], strategy: str, seed: int, runs: int, new_tokens: int) -> dict:
    """One algorithm, so many runs: the first one's text, the figures' means, and whether a second run differs (G3)."""
    knobs, started = STRATEGIES[strategy][1], time.perf_counter()
    said = [continue_prompt(model, ids, knobs, max_new_tokens=new_tokens, seed=seed + i) for i in range(runs)]
    seconds = time.perf_counter() - started
    return {
        "strategy": strategy,
        "knobs": knobs,
        "text": tok.decode(said[0].ids),
        "repetition": sum(repetition(g.ids) for g in said) / runs,
        "distinct2": sum(distinct2(g.ids) for g in said) / runs,
        "logprob": sum(g.logprob / len(g.ids) for g in said) / runs,
        "second_run_differs": any(g.ids != said[0].ids for g in said[1:]),
        "ms_per_token": 1000 * seconds / sum(len(g.ids) for g in said),
    }


def next_token(model, tok, ids: list[int]) -> dict:
    """The next-token distribution before and after each filter, over its most probable tokens."""
    from decoding import filter_steps

    logits, _ = model.prefill([ids])  # (1, V)
    shown = logits[0].topk(12).indices
    stages = [("the model's distribution", logits)]
    for title, knobs in {
        "top-k, k = 3": {"top_k": 3},
        f"top-p, p = {TOP_P}": {"top_p": TOP_P},
        "min-p, .3 of the best": {"min_p": 0.3},
        "temperature .5": {"temperature": 0.5},
        "temperature 2": {"temperature": 2.0},
    }.items():
        *_, (_, filtered) = filter_steps(logits, [ids], **knobs)
        stages.append((title, filtered))
    return {
        "tokens": [tok.decode([i]) for i in shown.tolist()],
        "stages": [(title, x[0].softmax(-1)[shown].tolist()) for title, x in stages],
    }


def best_paths(model, tok, ids: list[int]) -> list[str]:
    """What the model most probably says next: one token, then two."""
    from decoding import generate

    [said] = generate(model, [ids], max_new_tokens=2, temperature=0)
    return [tok.decode(said.ids[:1]), tok.decode(said.ids)]


def kept_after(model, tok, prompts: list[str]) -> list[dict]:
    """How many tokens top-k and top-p keep after each prompt: k is fixed, top-p follows the distribution (G7, G8)."""
    from decoding import top_p

    logits, _ = model.prefill([measure.as_text(tok, prompt) for prompt in prompts])
    rows = []
    for prompt, row in zip(prompts, logits):
        p, best = row.softmax(-1).max(-1)
        figures = {"best": tok.decode([best.item()]).strip(), "p": p.item(), "entropy": entropy(row)}
        rows.append({"prompt": prompt, **figures, "top_k": TOP_K, "top_p": kept(top_p(row, TOP_P))})
    return rows


def kept_by_step(model, ids: list[int], seed: int, new_tokens: int) -> list[dict]:
    """Along a text drawn with top-p: the number of tokens that top-p, and top-k, would keep at each step."""
    from decoding import top_p
    from decoding.generate import generate_steps

    steps = generate_steps(model, [ids], max_new_tokens=new_tokens, top_p=TOP_P, seed=seed)
    return [{"top_p": kept(top_p(step.logits[0], TOP_P)), "top_k": TOP_K} for step in steps]


def beam_tree(model, tok, ids: list[int], turns: int = 4, width: int = 3, pruned: int = 3) -> list[dict]:
    """The first turns of a beam search: kept and pruned paths, each with its parent's place (G5)."""
    from decoding import beam_steps

    tree, parents = [], [()]
    for step in beam_steps(model, ids, width=width, max_new_tokens=turns):
        places = {path: i for i, path in enumerate(parents)}

        def describe(path, places=places) -> dict:
            text, probability = tok.decode(path.ids[-1:]), math.exp(path.logprob)
            return {"parent": places[path.ids[:-1]], "text": text, "probability": probability}

        tree.append({"kept": [*map(describe, step.kept)], "pruned": [*map(describe, step.pruned[:pruned])]})
        parents = [path.ids for path in step.kept]
    return tree


def tasks(model, ids: list[int]) -> list[dict]:
    """What each task's settings leave of the next-token distribution (G10)."""
    from decoding import filter_steps

    logits, _ = model.prefill([ids])  # (1, V)
    rows = []
    for task, knobs in TASKS.items():
        *_, (_, filtered) = filter_steps(logits, [ids], **knobs)
        rows.append({"task": task, **knobs, "kept": kept(filtered[0]), "entropy": entropy(filtered[0])})
    return rows


def kept(logits) -> int:
    return logits.isfinite().sum().item()


def entropy(logits) -> float:
    """Entropy in nats of one distribution: 0 when one token is certain, ln V when all are alike."""
    p = logits.softmax(-1)
    return (p * -p.clamp_min(1e-30).log()).sum().item()


def show(trace: dict) -> None:
    """The table of algorithms on the terminal."""
    table(
        ["algorithm", "repeated 4-grams", "distinct pairs", "log-prob", "ms/token", "2nd run", "text"],
        [
            [row["strategy"], row["repetition"], row["distinct2"], row["logprob"], row["ms_per_token"],
             "differs" if row["second_run_differs"] else "same", " ".join(row["text"].split())]
            for row in trace["continuations"]
        ],
    )  # fmt: skip


def show_tasks(trace: dict) -> None:
    """The table of the tasks' settings on the terminal."""
    print("\n  Settings by task: a forum's rule of thumb, and what they leave of the next token's distribution here")
    table(
        ["task", "temperature", "top-p", "tokens kept", "entropy", ""],
        [
            [row["task"], row["temperature"], row["top_p"], row["kept"], row["entropy"],
             "one token is left: this is greedy" if row["kept"] == 1 else ""]
            for row in trace["tasks"]
        ],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.compare", description=__doc__.split("\n")[0])
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--model", default="base", help="base, sft, smollm or a run directory (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each algorithm, with seeds of their own")
    parser.add_argument("--seed", type=int, default=0, help="the first run's seed (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=NEW_TOKENS, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="(default: %(default)s)")
    args = parser.parse_args()
    if args.runs < 2:
        raise ValueError(f"--runs {args.runs}: must be at least 2, to see whether a second run differs")
    from scripts.support.report import write_comparison

    model, tok = open_model(args.model)
    traced = trace(model, tok, args.prompt, args.seed, args.runs, args.max_new_tokens)
    show(traced)
    show_tasks(traced)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "trace.json", traced)
    write_comparison(args.out, traced)
    print(f"\n  pictures in {args.out}/compare.html, the data in {args.out}/trace.json")


if __name__ == "__main__":
    run(main)
