"""Talk to a fine-tuned model, turn its knobs while talking, and compare it with its base model (G1, G9, S1, S6).

python -m scripts.chat --model sft --temperature .7 --top-p .9
"""

import argparse
import sys
from contextlib import suppress

from scripts.support.command_line import Parser, one_line, run
from scripts.support.knobs import KNOBS, STOP, as_stop, shown
from scripts.support.terminal import note


def main() -> None:
    parser = Parser(__doc__, prog="scripts.chat")
    parser.add_argument("--model", default="sft", help="sft, smollm or a run directory (default: %(default)s)")
    parser.add_argument("--base", help="the model for /compare (default: what the model was made from)")
    parser.add_argument("--system", help="a message put before the conversation")
    parser.add_argument(
        "--history",
        action=argparse.BooleanOptionalAction,
        help="the model sees the conversation so far (default: if it was made for more than one turn)",
    )
    for name, knob in KNOBS.items():
        flag = f"--{name.replace('_', '-')}"
        help = f"{knob.meaning} (default: {shown(knob.default)})"
        parser.add_argument(flag, type=knob.kind, default=knob.default, help=help)
    parser.add_argument("--stop", type=as_stop, action="append", metavar="TEXT", help=f"{STOP}; more than once")
    args = parser.parse_args()
    from scripts.support.models import model_directory, open_model, warn_of_forged_turns
    from scripts.support.talk import Talk, made_from

    # open the model; what it was made from says whether it sees the conversation so far
    model, tok = open_model(args.model)
    warn_of_forged_turns(tok)
    origin = made_from(model_directory(args.model))
    several_turns = origin["turns"] > 1 or tok.chat_template is not None
    history = several_turns if args.history is None else args.history
    knobs = {name: getattr(args, name) for name in KNOBS}
    talk = Talk(model, tok, args.base or origin["base"], knobs, args.system, history, args.stop or ())

    sees = "the conversation so far" if history else "each question alone"
    why = "" if several_turns or history else ", as in fine-tuning (--history shows it the whole conversation)"
    print(note(f"the model sees {sees}{why}; /help lists the knobs; an empty line quits"))
    converse(talk)


def converse(talk) -> None:
    """Read lines and do what they say, until an empty one or the end of the input."""
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 input() then has arrow keys and a history
    going_on = True
    while going_on:
        with suppress(KeyboardInterrupt):  # a second Ctrl-C, while the first one is being answered
            going_on = take_line(talk)


def take_line(talk) -> bool:
    """Read a line and do what it says; False when it is the last. An invalid one is an error message, no more."""
    try:
        line = input("you   ").strip()
        if line:
            talk.do(line)
        return bool(line)
    except EOFError:
        print()
        return False
    except KeyboardInterrupt:
        print(note("\nan empty line or Ctrl-D quits"))
    except (ValueError, FileNotFoundError) as problem:
        print(f"error: {one_line(problem)}", file=sys.stderr)
    return True


if __name__ == "__main__":
    run(main)
