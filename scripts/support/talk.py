"""A conversation with a model: what it is asked, how its answer appears, and the commands that turn its knobs."""

import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from decoding import Settings, generate, generate_steps, stream_text
from minigpt.files.reading import read_json
from scripts.support.knobs import KNOBS, as_stop, read_knob, shown
from scripts.support.measuring.answers import as_text
from scripts.support.models import open_model
from scripts.support.terminal import ENDS_AT_ONCE, note, terminal_width, visible
from sft import Message, encode_conversation, end_ids

GREEDY = ", without effect while temperature is 0, which draws nothing"
COMMANDS = {
    "/temperature .7": "sets a knob, /temperature alone resets it",
    "/knobs": "shows all of them",
    "/stop \\n\\n": "ends answers before this text (\\n: a new line), which isn't shown; /stop alone: before none",
    "/compare": "the base model and this one on your last question, side by side; or on a question after it",
    "/new": "forgets the conversation so far",
    "Ctrl-C": "stops an answer; an empty line or Ctrl-D quits",
}


class Talk:
    """A conversation with a model: its turns so far, and the knobs as they are set.

    base: the name of the model that /compare compares with, if known. history: does the model see the turns so far?
    """

    def __init__(
        self, model, tok, base: str | None, knobs: dict, system: str | None = None, history: bool = True,
        stop: Sequence[str] = (),
    ):  # fmt: skip
        self.model = model
        self.tok = tok
        self.base = base
        self.knobs = dict(knobs)
        self.stop = tuple(stop)
        self.history = history
        self.system = [Message("system", system)] if system is not None else []
        self.turns: list[list[Message]] = []  # each a question and its answer
        self.question: str | None = None  # the last one
        self.opened_base: tuple | None = None
        self.set()

    def do(self, line: str) -> None:
        """Do what a typed line asks for: a command if it begins with a slash, else a question."""
        if line.startswith("/"):
            self.obey(line)
        else:
            self.answer(line)

    def answer(self, question: str) -> None:
        """Print an answer as it is generated and remember it; Ctrl-C ends it early."""
        self.question = question
        window = self.model.context_length
        prompt, left_out = self.lay_out(question, self.turns)
        if left_out:
            del self.turns[:left_out]
            print(note(f"the window of {window} tokens is full: the oldest turns are left out, {left_out} of them"))

        # print piece by piece
        knobs = {name: value for name, value in self.knobs.items() if name != "seed"}
        settings = Settings(**knobs, eos_id=end_ids(self.tok), stop=self.stop, decode=self.tok.decode)
        said = ""
        why = ""
        print("model ", end="", flush=True)
        try:
            for step in generate_steps(self.model, prompt, settings, self.knobs["seed"]):
                said += step.text
                print(visible(step.text), end="", flush=True)
            if not said.strip():
                why = ENDS_AT_ONCE
            elif step.stop == "length":
                most = self.knobs["max_new_tokens"]
                why = f" (cut after {most} tokens; /max_new_tokens {2 * most} allows more)"
            elif step.stop == "context":
                why = f" (cut, the window of {window} tokens is full)"
        except KeyboardInterrupt:
            why = " (stopped)"
        print(note(why) if why else "")

        if said and self.history:
            self.turns.append([Message("user", question), Message("assistant", said)])

    def lay_out(self, question: str, turns: list[list[Message]]) -> tuple[list[int], int]:
        """The conversation as ids, opened for the answer; and how many of the oldest turns are left out to make room.

        ValueError when the question alone fills the window.
        """
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

    def obey(self, line: str) -> None:
        """Do what a line that begins with a slash says. ValueError for an unknown command."""
        command, _, value = line.partition(" ")
        name = command.removeprefix("/").replace("-", "_")
        value = value.strip()
        if name == "new":
            self.turns.clear()
            print(note("forgotten"))
        elif name == "compare":
            if not (value or self.question):
                raise ValueError("/compare: ask a question first, or give one after it")
            self.compare(value or self.question)
        elif name == "knobs":
            self.show_knobs()
        elif name == "help":
            self.show_knobs()
            for what, meaning in COMMANDS.items():
                print(f"  {what:27} {note(meaning)}")
        elif name == "stop":
            self.set(stop=(as_stop(value),) if value else ())
            print(note(f"stop {self.stop_shown()}"))
        elif name in KNOBS:
            self.set(**{name: read_knob(name, value)})
            idle = KNOBS[name].draws and name != "temperature" and self.knobs["temperature"] == 0
            print(note(f"{name} {shown(self.knobs[name])}{GREEDY if idle else ''}"))
        else:
            known = ", ".join(f"/{knob}" for knob in KNOBS)
            raise ValueError(f"{command}: unknown; the commands are {known}, /stop, /compare, /new, /help")

    def set(self, stop: Sequence[str] | None = None, **changes) -> None:
        """Change knobs or stop strings. ValueError, and no change, for an invalid value: one token is drawn to see."""
        knobs, stop = self.knobs | changes, self.stop if stop is None else stop
        next(stream_text(self.model, [0], stop=stop, decode=self.tok.decode, **knobs), None)
        self.knobs, self.stop = knobs, stop

    def stop_shown(self) -> str:
        return ", ".join(map(repr, self.stop)) or "off"

    def show_knobs(self) -> None:
        for name, knob in KNOBS.items():
            print(f"  /{name:20} {shown(self.knobs[name]):5} {note(knob.meaning)}")
        print(f"  /{'stop':20} {self.stop_shown():5} {note('ends an answer before this text')}")

    def compare(self, question: str) -> None:
        """Print two columns: the base model continues the plain text (S1), this model answers (S6)."""
        if self.base is None:
            raise ValueError("/compare: what this model was made from isn't known; start again with BASE=… (--base)")
        if self.opened_base is None:
            self.opened_base = open_model(self.base)
        base, base_tok = self.opened_base
        texts = []
        for model, tok, prompt in (
            (base, base_tok, as_text(base_tok, question)),
            (self.model, self.tok, self.lay_out(question, [])[0]),
        ):
            given = {"eos_id": end_ids(tok), "stop": self.stop, "decode": tok.decode}
            [one] = generate(model, [prompt], **given, **self.knobs)
            texts.append(one.text)

        width = max(20, (terminal_width() - 4) // 2)
        left = [f"{self.base} continues:", *wrapped(texts[0], width)]
        right = ["this model answers:", *wrapped(texts[1], width)]
        for a, b in zip_longest(left, right, fillvalue=""):
            print(f"  {a:{width}}  {b}")


def wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(visible(" ".join(text.split())) or ENDS_AT_ONCE, width)


def made_from(directory: Path) -> dict:
    """What fine-tuning noted about a run directory: its base model, and the turns of its longest demonstration.

    The base is None where nothing is noted. ValueError for a note of another form.
    """
    path = directory / "made_from.json"
    noted = {"base": None, "turns": 1} | (read_json(path) if path.exists() else {})
    if not (isinstance(noted["base"], str | None) and type(noted["turns"]) is int and noted["turns"] >= 1):
        raise ValueError(f"{path}: must be an object with the base's name and a number of turns")
    return noted
