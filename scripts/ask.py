"""Ask a model a question: a base model goes on writing (S1), a fine-tuned one answers (S6).

python -m scripts.ask --question "Where does Selma live?" --model sft
"""

import argparse

from scripts.support.common import open_model, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.ask", description=__doc__.split("\n")[0])
    parser.add_argument("--question", required=True)
    parser.add_argument("--model", default="sft", help="base, sft, smollm or a run directory (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=40, help="(default: %(default)s)")
    args = parser.parse_args()
    from scripts.support.measure import as_question, as_text, continuations

    model, tok = open_model(args.model)
    layouts = {"as plain text": as_text, "in fine-tuning's layout": as_question}
    for name, layout in layouts.items():
        [said] = continuations(model, tok, [layout(tok, args.question)], args.max_new_tokens)
        print(f"  {name + ':':25} {args.question} ⟶ {said.strip()}")


if __name__ == "__main__":
    run(main)
