"""Ask a model a question: a base model continues the text (S1), a fine-tuned one answers (S6).

python -m scripts.ask --question "Where does Selma live?" --model sft
"""

from scripts.support.command_line import Parser, run, whole
from scripts.support.terminal import ENDS_AT_ONCE, visible


def main() -> None:
    parser = Parser(__doc__, prog="scripts.ask")
    parser.add_argument("--question", required=True, help="what to ask")
    parser.add_argument("--model", default="sft", help="base, sft, smollm or a run directory (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=whole(1), default=40, help="(default: %(default)s)")
    args = parser.parse_args()
    from scripts.support.measuring.answers import as_question, as_text, continuations
    from scripts.support.models import open_model, warn_of_forged_turns

    model, tok = open_model(args.model)
    warn_of_forged_turns(tok)
    prompts = {
        "as plain text:": as_text(tok, args.question),
        "in fine-tuning's layout:": as_question(tok, args.question),
    }
    for layout, prompt in prompts.items():
        [said] = continuations(model, tok, [prompt], args.max_new_tokens)
        print(visible(f"  {layout:25} {args.question} ⟶ {said.strip() or ENDS_AT_ONCE}"))


if __name__ == "__main__":
    run(main)
