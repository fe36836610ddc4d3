"""Continue a prompt with one of the lecture's algorithms (G1 to G9).

python -m scripts.generate --prompt "Meet Selma. She" --strategy top_p --top-p .9
"""

from scripts.support.command_line import Parser, run, whole
from scripts.support.knobs import BEAM_KNOBS, FILTERS, KNOBS, STOP, as_stop
from scripts.support.strategies import STRATEGIES, TASKS, with_knobs
from scripts.support.terminal import visible

FLAGS = {name: KNOBS[name] for name in FILTERS} | BEAM_KNOBS


def main() -> None:
    parser = Parser(__doc__, prog="scripts.generate")
    parser.add_argument("--prompt", required=True, help="the text to continue")
    parser.add_argument("--model", default="base", help="base, sft, smollm or a run directory (default: %(default)s)")
    parser.add_argument("--strategy", help=f"{', '.join(STRATEGIES)} (default: top_p)")
    parser.add_argument("--task", choices=TASKS, help="settings by a rule of thumb, in place of a strategy")
    parser.add_argument("--max-new-tokens", type=whole(1), default=40, help="(default: %(default)s)")
    parser.add_argument("--seed", type=whole(0), help="the same seed gives the same text (default: a new one)")
    parser.add_argument("--stop", type=as_stop, action="append", metavar="TEXT", help=f"{STOP}; more than once")
    parser.add_argument("--backend", choices=["torch", "numpy"], default="torch", help="numpy: the twin, by hand")
    for name, knob in FLAGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=knob.kind, help=knob.meaning)
    args = parser.parse_args()
    if args.task and args.strategy:
        raise ValueError(f"--strategy {args.strategy}: leave it out, --task {args.task} chooses one")
    name = args.task or args.strategy or "top_p"
    knobs = with_knobs(name, {knob: getattr(args, knob) for knob in FLAGS if getattr(args, knob) is not None})
    from decoding import uncached
    from minigpt.numpy_gpt import NumpyGPT
    from scripts.support.comparison import Endless, continue_prompt
    from scripts.support.measuring.answers import as_text, text_of
    from scripts.support.measuring.repetition import repetition
    from scripts.support.models import open_model
    from sft import end_ids

    model, tok = open_model(args.model)
    if args.backend == "numpy":
        spare = getattr(model, "spare_ids", [])  # rows that are no token
        model = Endless(uncached(NumpyGPT.from_torch(model)), [*spare])
    prompt = as_text(tok, args.prompt)
    if args.stop and "width" in knobs:
        raise ValueError(f"--stop {args.stop[0]}: beam search ranks tokens and knows no stop strings")
    asked = knobs | ({"stop": args.stop, "decode": tok.decode} if args.stop else {})
    said = continue_prompt(
        model, prompt, asked, max_new_tokens=args.max_new_tokens, eos_id=end_ids(tok), seed=args.seed
    )
    print(visible(args.prompt + (text_of(tok, said) if said.text is None else said.text)))
    mean = said.logprob / max(1, len(said.ids))
    print(f"\n  {name} {knobs}: {len(said.ids)} tokens, stopped by {said.stop}")
    print(f"  log-probability {mean:.2f} per token, repeated 4-grams {repetition(said.ids):.2f}")


if __name__ == "__main__":
    run(main)
