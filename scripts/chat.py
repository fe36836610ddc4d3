"""Talk to a fine-tuned model; the answer appears as it is made (G1, S6). An empty line ends.

python -m scripts.chat --model sft
"""

import argparse

from scripts.common import GREY, RESET, open_model, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.chat", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="sft", help="sft, smollm or a run directory (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="(default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=60, help="(default: %(default)s)")
    args = parser.parse_args()
    from decoding import stream
    from scripts.measure import as_question

    model, tok = open_model(args.model)
    knobs = {"temperature": args.temperature, "top_p": args.top_p, "max_new_tokens": args.max_new_tokens}
    print(f"{GREY}each question stands for itself; an empty line ends{RESET}")
    while True:
        try:
            question = input("you   ").strip()
        except EOFError:
            question = ""
        if not question:
            return
        ids = stream(model, as_question(tok, question), eos_id=tok.end_id, **knobs)
        print("model ", end="")
        for piece in tok.decode_stream(ids):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    run(main)
