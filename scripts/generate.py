"""Continue a prompt with one of the lecture's algorithms (G1 to G9).

python -m scripts.generate --prompt "Meet Selma. She" --strategy top_p --top-p .9
"""

import argparse

from scripts.support.common import open_model, run
from scripts.support.strategies import STRATEGIES, TASKS, continue_prompt, named, repetition

KNOBS = {"temperature": float, "top_k": int, "top_p": float, "min_p": float, "width": int}
KNOBS |= {"repetition_penalty": float, "no_repeat_ngram": int, "length_penalty": float}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.generate", description=__doc__.split("\n")[0])
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--model", default="base", help="base, sft, smollm or a run directory (default: %(default)s)")
    parser.add_argument("--strategy", default="top_p", help=f"{', '.join(STRATEGIES)} (default: %(default)s)")
    parser.add_argument("--task", choices=TASKS, help="settings by a rule of thumb, in place of a strategy")
    parser.add_argument("--max-new-tokens", type=int, default=40, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, help="the same seed gives the same text (default: a new one)")
    parser.add_argument("--backend", choices=["torch", "numpy"], default="torch", help="numpy: the twin, by hand")
    for name, kind in KNOBS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="sets this knob of the strategy")
    args = parser.parse_args()
    knobs = named(args.task or args.strategy) | {
        name: getattr(args, name) for name in KNOBS if getattr(args, name) is not None
    }
    from scripts.support.measure import as_text

    model, tok = open_model(args.model)
    if args.backend == "numpy":
        from minigpt.numpy_gpt import NumpyGPT

        model = NumpyGPT.from_torch(model)
    shared = {"max_new_tokens": args.max_new_tokens, "eos_id": tok.end_id}
    if "width" not in knobs:
        shared["seed"] = args.seed
    said = continue_prompt(model, as_text(tok, args.prompt), knobs, **shared)
    print(args.prompt + tok.decode(token for token in said.ids if token != tok.end_id))
    mean = said.logprob / max(1, len(said.ids))
    print(f"\n  {args.task or args.strategy} {knobs}: {len(said.ids)} tokens, stopped by {said.stop}")
    print(f"  log-probability {mean:.2f} a token, repeated 4-grams {repetition(said.ids):.2f}")


if __name__ == "__main__":
    run(main)
