"""Talk to a fine-tuned model, turn its knobs while talking, and compare it with its base model (G1, G9, S1, S6).

python -m scripts.chat --model sft --temperature .7 --top-p .9
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from scripts.support.common import GREY, RESET, model_directory, one_line, open_model, run, terminal_width

KNOBS = {  # name: (kind, at first, what it does)
    "temperature": (float, 0.0, "0 is greedy and draws nothing; 1 draws as the model says; more is wilder"),
    "top_k": (int, None, "draw from the k most probable tokens only"),
    "top_p": (float, None, "draw from the smallest set of tokens that reaches p"),
    "min_p": (float, None, "draw from the tokens at least p times as probable as the best"),
    "repetition_penalty": (float, 1.0, "above 1, what was said before becomes less likely"),
    "no_repeat_ngram": (int, None, "so many tokens in a row never come twice"),
    "max_new_tokens": (int, 60, "the longest answer"),
    "seed": (int, None, "the same seed gives the same answer"),
}
GREEDY = ", without effect while temperature is 0, which draws nothing"
COMMANDS = {
    "/temperature .7": "sets a knob, /temperature alone sets it back",
    "/knobs": "shows them all",
    "/compare": "the base model and this one on your last question, side by side; or on a question after it",
    "/new": "forgets the talk so far",
    "Ctrl-C": "stops an answer; an empty line or Ctrl-D ends",
}


class Talk:
    """A conversation with a model: its turns so far, and the knobs as they are set."""

    def __init__(self, model, tok, base: str, knobs: dict, system: str | None = None, history: bool = True):
        from sft import Message

        self.model, self.tok, self.base, self.knobs, self.history = model, tok, base, dict(knobs), history
        self.system = [Message("system", system)] if system is not None else []
        self.turns: list[list] = []  # a question and its answer each
        self.question = self.opened_base = None
        self.set()

    def set(self, **changes) -> None:
        """Change knobs. ValueError, and no change, for a value that makes no sense: one token is drawn to find out."""
        from decoding import stream

        knobs = self.knobs | changes
        next(stream(self.model, [0], **knobs), None)
        self.knobs = knobs

    def lay_out(self, question: str, turns: list[list]) -> tuple[list[int], int]:
        """The talk as ids, opened for the answer; and how many of the oldest turns are left out to make room for it.

        ValueError when the question alone fills the window.
        """
        from sft import Message, encode_conversation

        window = self.model.context_length
        room = window - min(self.knobs["max_new_tokens"], window // 2)
        for left_out in range(len(turns) + 1):
            kept = [message for turn in turns[left_out:] for message in turn]
            ids, _ = encode_conversation(self.tok, [*self.system, *kept, Message("user", question)])
            if len(ids) <= room:
                break
        if len(ids) >= window:
            raise ValueError(f"the question takes {len(ids)} tokens and the window holds {window}: ask a shorter one")
        return ids, left_out

    def answer(self, question: str) -> None:
        """Print an answer as it is made and remember what was said; Ctrl-C ends it early."""
        from decoding import stream
        from sft import Message

        self.question, window = question, self.model.context_length
        prompt, left_out = self.lay_out(question, self.turns)
        if left_out:
            del self.turns[:left_out]
            print(note(f"the window of {window} tokens is full: the oldest turns are left out, {left_out} of them"))
        ids, said, why = [], "", ""

        def noted() -> Iterator[int]:
            for id in stream(self.model, prompt, eos_id=self.tok.end_id, **self.knobs):
                ids.append(id)
                yield id

        print("model ", end="", flush=True)
        try:
            for piece in self.tok.decode_stream(noted()):
                said += piece
                print(piece, end="", flush=True)
            if len(ids) == self.knobs["max_new_tokens"]:
                why = f" (cut after {len(ids)} tokens; /max_new_tokens {2 * len(ids)} allows more)"
            elif len(prompt) + len(ids) == window:
                why = f" (cut, the window of {window} tokens is full)"
        except KeyboardInterrupt:
            why = " (stopped)"
        print(note(why) if why else "")
        if said and self.history:
            self.turns.append([Message("user", question), Message("assistant", said)])

    def compare(self, question: str) -> None:
        """Print two columns: the base model goes on from the plain text (S1), this model answers (S6)."""
        from decoding import generate
        from scripts.support.measure import as_text

        self.opened_base = self.opened_base or open_model(self.base)
        base, base_tok = self.opened_base
        width, columns = max(20, (terminal_width() - 4) // 2), []
        for title, model, tok, prompt in (
            (f"{self.base} goes on:", base, base_tok, as_text(base_tok, question)),
            ("this model answers:", self.model, self.tok, self.lay_out(question, [])[0]),
        ):
            [said] = generate(model, [prompt], eos_id=tok.end_id, **self.knobs)
            text = tok.decode(id for id in said.ids if id != tok.end_id)
            columns.append([title, *textwrap.wrap(" ".join(text.split()), width)])
        for left, right in zip_longest(*columns, fillvalue=""):
            print(f"  {left:{width}}  {right}")

    def obey(self, line: str) -> None:
        """Do what a line that begins with a stroke says. ValueError for a command that isn't known."""
        command, _, value = line.partition(" ")
        name, value = command.removeprefix("/").replace("-", "_"), value.strip()
        if name == "new":
            self.turns.clear()
            print(note("forgotten"))
        elif name == "compare":
            if not (value or self.question):
                raise ValueError("/compare: ask a question first, or give one after it")
            self.compare(value or self.question)
        elif name in ("knobs", "help"):
            for knob, (_, _, meaning) in KNOBS.items():
                print(f"  /{knob:20} {shown(self.knobs[knob]):5} {note(meaning)}")
            for what, meaning in COMMANDS.items() if name == "help" else ():
                print(f"  {what:27} {note(meaning)}")
        elif name in KNOBS:
            self.set(**{name: read_knob(name, value)})
            greedy = self.knobs["temperature"] == 0 and name in ("top_k", "top_p", "min_p", "seed")
            print(note(f"{name} {shown(self.knobs[name])}{GREEDY if greedy else ''}"))
        else:
            raise ValueError(f"{command}: is none of {', '.join('/' + knob for knob in KNOBS)}, /compare, /new, /help")


def read_knob(name: str, value: str):
    """A knob's value from what was typed; without one, what it is at first."""
    kind, at_first, _ = KNOBS[name]
    if not value:
        return at_first
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{name} is {value!r}; expected a {'whole ' if kind is int else ''}number") from None


def shown(value: object) -> str:
    return "off" if value is None else str(value)


def note(text: str) -> str:
    return f"{GREY}{text}{RESET}"


def made_from(directory: Path) -> dict:
    """What fine-tuning noted about a run directory: its base model, and the turns of its longest demonstration."""
    path = directory / "made_from.json"
    return json.loads(path.read_text()) if path.exists() else {"base": "base", "turns": 1}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.chat", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="sft", help="sft, smollm or a run directory (default: %(default)s)")
    parser.add_argument("--base", help="what /compare compares with (default: what the model was made from, else base)")
    parser.add_argument("--system", help="a message that stands before the talk")
    parser.add_argument(
        "--history", action=argparse.BooleanOptionalAction,
        help="the model sees the talk so far (default: if it was made for more than one turn)",
    )  # fmt: skip
    for name, (kind, at_first, meaning) in KNOBS.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=at_first, help=f"{meaning} (default: {shown(at_first)})")
    args = parser.parse_args()

    model, tok = open_model(args.model)
    origin = made_from(model_directory(args.model))
    several = origin["turns"] > 1 or tok.chat_template is not None
    history = several if args.history is None else args.history
    knobs = {name: getattr(args, name) for name in KNOBS}
    talk = Talk(model, tok, args.base or origin["base"], knobs, args.system, history)
    sees = "the talk so far" if history else "each question alone"
    why = "" if several or history else ", as in fine-tuning (--history shows it the whole talk)"
    print(note(f"the model sees {sees}{why}; /help tells the knobs; an empty line ends"))
    while True:
        try:
            line = input("you   ").strip()
            if not line:
                return
            (talk.obey if line.startswith("/") else talk.answer)(line)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print(note("\nan empty line or Ctrl-D ends"))
        except (ValueError, OSError) as problem:
            print(f"error: {one_line(problem)}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
