"""Ask a model a question: a base model continues the text (S1), a fine-tuned one answers (S6).

python -m scripts.ask --question "Where does Selma live?" --model sft
"""

import argparse

from scripts.support.command_line import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.ask", description=__doc__.split("\n")[0])
    parser.add_argument("--question", required=True, help="what to ask")
    parser.add_argument("--model", default="sft", help="base, sft, smollm or a run directory (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=40, help="(default: %(default)s)")
    args = parser.parse_args()
    from scripts.support.measuring.answers import as_question, as_text, continuations
    from scripts.support.models import open_model

    model, tok = open_model(args.model)
    prompts = {
        "as plain text:": as_text(tok, args.question),
        "in fine-tuning's layout:": as_question(tok, args.question),
    }
    for layout, prompt in prompts.items():
        [said] = continuations(model, tok, [prompt], args.max_new_tokens)
        print(f"  {layout:25} {args.question} ⟶ {said.strip()}")


if __name__ == "__main__":
    run(main)
