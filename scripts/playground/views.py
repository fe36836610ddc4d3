"""What each panel of the page shows, as plain data. Every number comes from `decoding`, `sft` or support/measuring.

A view takes the session and the request's body, a dict from the page, and gives a dict. Those that generate give
several, one after the other. A bad value is a ValueError that names it; no web server here.
"""

import inspect
import math
import random
import shlex
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import decoding
from decoding import Settings, beam_steps, draw, filter_steps, filters, generate_steps, why_stop
from decoding.settings import as_ids, as_prompts, expect, room_for
from decoding.stops import Reader
from minigpt import GPT, Tokenizer
from minigpt.formulas import cross_entropy
from scripts.playground.session import Session, uniform
from scripts.support.comparison import Endless
from scripts.support.knobs import KNOBS
from scripts.support.measuring.answers import as_question, as_text, text_of
from scripts.support.measuring.distribution import entropy, kept
from scripts.support.measuring.repetition import repeats, repetition
from scripts.support.strategies import STRATEGIES, TASKS
from sft import Message, encode_conversation, end_ids, fine_tune
from sft.data import Rows, collate

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {"temperature": 1, "repetition_penalty": 1, "max_new_tokens": 40}  # as `make generate` has them
CHARACTERS = 20_000  # of a text
STOP = 100  # characters of a stop string
NEW_TOKENS = 400  # of one generation
CURVE = 400  # tokens of a text whose curves are drawn
ROWS = 60  # bars
DRAWS = 10_000
WIDTH = 10  # of a beam
BEAM_STEPS = 30

SHOWN = {  # panel -> statement and function
    "next": [("G1", decoding.filter_steps), ("G7", filters.top_k), ("G8", filters.top_p), ("G9", filters.temperature)],
    "why": [("G3", uniform), ("G6", draw)],
    "text": [("G1", generate_steps), ("G2", why_stop)],
    "beam": [("G5", beam_steps)],
    "side": [("G3", generate_steps), ("G4", filters.temperature), ("G11", repetition)],
    "curves": [("P3", cross_entropy), ("G7", filters.top_k), ("G8", filters.top_p)],
    "asked": [("S1", as_text), ("S2", fine_tune), ("S6", as_question)],
    "layout": [("S3", encode_conversation), ("S5", collate)],
    "sizes": [("P6", GPT)],
}  # fmt: skip


class Asked(NamedTuple):
    """What a request is about."""

    name: str
    model: object
    tok: object
    prompt: list[int]
    chosen: list[int]  # new tokens, so far
    settings: Settings
    seed: int


def read(session: Session, body: dict) -> Asked:
    """The model, text, chosen tokens and knobs that a body names, checked."""
    name = body.get("model")
    expect(isinstance(name, str), "model", name, "a name")
    model, tok = session.open(name)

    text, form = words(body, "text"), body.get("form", "text")
    expect(form in ("text", "question"), "form", form, "text or question")
    prompt = as_question(tok, text) if form == "question" else as_text(tok, text)
    [prompt] = as_prompts(model, [prompt])
    chosen = as_ids("ids", body.get("ids", []), tok.vocab_size)
    room = room_for(model, prompt)
    expect(len(chosen) <= room, "number of chosen tokens", len(chosen), f"at most {room}, the room in the window")

    seed = whole(body, "seed", 0, 0, 2**53)
    return Asked(name, model, tok, prompt, chosen, settings_of(tok, body), seed)


def settings_of(tok, body: dict) -> Settings:
    """The knobs of a body as Settings: they end at the tokenizer's end token. ValueError for an unknown knob."""
    knobs = body.get("knobs", {})
    expect(isinstance(knobs, dict), "knobs", knobs, "an object")
    for name, value in knobs.items():
        expect(name in KNOBS and name != "seed", "name of a knob", name, ", ".join(KNOBS))
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e9
        expect(is_number or value is None, name, value, "a number up to 1e9, or null")
    given = DEFAULTS | {name: value for name, value in knobs.items() if value is not None}
    expect(given["max_new_tokens"] <= NEW_TOKENS, "max_new_tokens", given["max_new_tokens"], f"at most {NEW_TOKENS}")

    banned = tok.special.values() if body.get("endless") else ()
    stop = words({"stop": ""} | body, "stop", STOP)
    return Settings(**given, eos_id=end_ids(tok), banned_ids=banned, stop=[stop] if stop else [], decode=tok.decode)


def words(body: dict, key: str, most: int = CHARACTERS) -> str:
    text = body.get(key)
    expect(isinstance(text, str), key, text, "a text")
    expect(len(text) <= most, f"length of {key}", len(text), f"at most {most} characters")
    expect(text.isascii() or text == text.encode(errors="ignore").decode(), key, "half a character", "Unicode text")
    return text


def whole(body: dict, key: str, default: int, least: int, most: int) -> int:
    value = body.get(key, default)
    right = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    expect(right, key, value, f"a whole number from {least} to {most}")
    return value


def token(tok, id: int) -> dict:
    """A token as the page shows it."""
    piece = tok.token_bytes(id).decode("utf-8", errors="replace")
    return {"id": id, "piece": piece, "special": id in tok.special_names}


def start(session: Session, body: dict) -> dict:
    """What the page needs once: models, knobs, presets, and where in the source each panel's functions stand."""
    told = lambda statement, function: {"statement": statement, "name": function.__name__, "where": where(function)}
    return {
        "models": list(session.models),
        "first": session.first,
        "knobs": {name: {"meaning": knob.meaning, "default": DEFAULTS.get(name)} for name, knob in KNOBS.items()},
        "strategies": {name: strategy._asdict() for name, strategy in STRATEGIES.items()},
        "tasks": TASKS,
        "shown": {panel: [told(*pair) for pair in pairs] for panel, pairs in SHOWN.items()},
    }


def where(function) -> str:
    """The file and line of a function.

    >>> where(where).startswith("scripts/playground/views.py:")
    True
    """
    function = inspect.unwrap(function)
    file = Path(inspect.getsourcefile(function)).relative_to(ROOT)
    return f"{file}:{inspect.getsourcelines(function)[1]}"


@torch.inference_mode()
def next_token(session: Session, body: dict) -> dict:
    """The distribution of the next token at each stage of the filters, and the token that a uniform number draws."""
    asked = read(session, body)
    tok, ids, place = asked.tok, [*asked.prompt, *asked.chosen], len(asked.chosen)
    room = room_for(asked.model, asked.prompt)
    chosen, ended = given_out(asked, room)
    found = {
        "prompt": [token(tok, id) for id in asked.prompt],
        "chosen": chosen,
        "repetition": repetition(asked.chosen),
        "ended": ended,
        "command": command(asked, body),
    }
    if place == room:
        return found  # no further token fits
    u = body.get("uniform")
    if u is None:
        u = uniform(asked.seed, place)
    expect(isinstance(u, float | int) and 0 <= u < 1, "uniform", u, "a number from 0 to 1, 1 excluded")

    stages = list(filter_steps(session.logits_after(asked.name, ids), ids, asked.settings, place + 1))
    shown = whole(body, "shown", 12, 1, ROWS)
    return found | distribution(tok, stages, u, shown)


def given_out(asked: Asked, room: float) -> tuple[list[dict], str | None]:
    """The chosen tokens, and why the text ends: of what is a stop string, or may become one, nothing is shown."""
    tok, ids, reader, ended = asked.tok, asked.chosen, Reader(asked.settings), None
    tokens = [token(tok, id) | {"repeat": repeat} for id, repeat in zip(ids, repeats(ids))]
    if not asked.settings.stop:
        return tokens, why_stop(ids[-1], len(ids), room, asked.settings) if ids else None

    for length, id in enumerate(ids, 1):
        _, ended = reader.read(id, why_stop(id, length, room, asked.settings))
    for place, shown in enumerate(tokens):
        begin, end = len(tok.decode(ids[:place])), len(tok.decode(ids[: place + 1]))
        if end > reader.given and not shown["special"]:
            shown |= {"piece": shown["piece"][: max(0, reader.given - begin)], "held": True}
    return tokens, ended


def distribution(tok, stages: list[tuple[str, Tensor]], u: float, shown: int) -> dict:
    """The most probable tokens before and after all filters, with their probability at each stage."""
    before, filtered = stages[0][1], stages[-1][1]  # (V,) each
    V, blocked = len(filtered), bool(filtered.max() == filters.OUT)
    probability = torch.stack([left.double().softmax(-1) for _, left in stages]).nan_to_num()  # (stages, V)
    choice = None if blocked else draw(filtered, torch.tensor(u, dtype=torch.float64)).item()

    # which tokens: the most probable ones before and after the filters, the first one that is cut, and the choice
    cut = before.masked_fill(filtered > filters.OUT, filters.OUT)
    most = [filters.top_k(before, shown), filters.top_k(filtered, shown), filters.top_k(cut, 1)]
    rows = {id for left in most for id in left.isfinite().nonzero()[:, 0].tolist()} | ({choice} - {None})
    rows = sorted(rows, key=lambda id: (-probability[0, id].item(), id))
    tail = probability.index_fill(-1, torch.tensor(rows), 0).sum(-1).tolist()  # of all other tokens, at each stage
    told = [
        {"name": name, "kept": kept(left), "others": kept(left) - kept(left[rows]), "others_p": p}
        for (name, left), p in zip(stages, tail)
    ]

    upper = probability[-1].cumsum(-1)  # (V,): where each token ends on the line from 0 to 1

    def row(id: int) -> dict:
        p = [p if left[id] > filters.OUT else None for (_, left), p in zip(stages, probability[:, id].tolist())]
        return token(tok, id) | {"p": p, "from": (upper[id] - probability[-1, id]).item(), "to": upper[id].item()}

    return {
        "uniform": u,
        "choice": choice,
        "blocked": blocked,
        "vocabulary": V,
        "mass": probability[0, filtered > filters.OUT].sum().item(),  # of what is left, by the model
        "stages": told,
        "rows": [row(id) for id in rows],
    }


@torch.inference_mode()
def draws(session: Session, body: dict) -> dict:
    """How often each token comes when the next token is drawn many times (G6)."""
    asked = read(session, body)
    ids = [*asked.prompt, *asked.chosen]
    n = whole(body, "n", 1000, 1, DRAWS)
    logits = session.logits_after(asked.name, ids)
    *_, (_, filtered) = filter_steps(logits, ids, asked.settings, len(asked.chosen) + 1)  # (V,)
    expect(bool(filtered.max() > filters.OUT), "number of tokens that are left", 0, "at least 1 to draw from")

    chance = random.Random(whole(body, "again", 0, 0, 2**53))
    uniforms = torch.tensor([chance.random() for _ in range(n)], dtype=torch.float64)
    drawn, counts = draw(filtered, uniforms).unique(return_counts=True)
    return {"n": n, "counts": {str(id): count for id, count in zip(drawn.tolist(), counts.tolist())}}


@torch.inference_mode()
def beam(session: Session, body: dict) -> Iterator[dict]:
    """The steps of a beam search from the text so far, with greedy's own path marked (G5)."""
    asked = read(session, body)
    tok, ids = asked.tok, [*asked.prompt, *asked.chosen]
    width, steps = whole(body, "width", 3, 1, WIDTH), whole(body, "steps", 5, 1, BEAM_STEPS)
    penalty = body.get("length_penalty", 0.0)
    expect(isinstance(penalty, float | int), "length_penalty", penalty, "a number")
    model, settings = unending(asked), Settings(steps, eos_id=end_ids(tok), temperature=0)
    greedy = tuple(step.id for step in generate_steps(model, ids, settings))

    def described(path) -> dict:
        """Of a path, or of a finished one; a path that filled the length is also among the kept ones."""
        new = tuple(path.ids)
        ended = {"score": path.score, "stop": path.stop} if hasattr(path, "stop") else {}
        return {
            "ids": new,
            "pieces": [token(tok, id) for id in new],
            "logprob": path.logprob,
            "step": path.logprobs[-1] if new else 0.0,
            "greedy": new == greedy[: len(new)],
        } | ended

    for step in beam_steps(model, ids, settings, width, penalty):
        shown = {"kept": step.kept, "pruned": step.pruned[:width], "finished": step.finished}
        yield {name: [described(path) for path in paths] for name, paths in shown.items()}


def unending(asked: Asked):
    """The model, or one that never chooses a special token, if the page asks for it."""
    banned = asked.settings.banned_ids
    return Endless(asked.model, banned) if banned else asked.model


def run(session: Session, body: dict) -> Iterator[dict]:
    """One algorithm's continuation of the text, token by token, then its figures (G1 to G11).

    strategy: its arguments replace the knobs and the stop string; endless: special tokens are never chosen.
    """
    asked = read(session, body)
    tok, ids, settings = asked.tok, [*asked.prompt, *asked.chosen], asked.settings
    model, name, width = unending(asked), body.get("strategy"), None
    if name is not None:
        expect(isinstance(name, str) and name in STRATEGIES, "strategy", name, ", ".join(STRATEGIES))
        arguments = dict(STRATEGIES[name].arguments)
        width = arguments.pop("width", None)
        settings = Settings(settings.max_new_tokens, eos_id=end_ids(tok), decode=tok.decode, **arguments)

    if width is None:
        new, logprob, text = [], 0.0, ""
        for step in generate_steps(model, ids, settings, asked.seed):
            new += [] if step.id is None else [step.id]
            logprob += step.logprob
            text += step.text
            yield {"text": text}
        stop = step.stop
    else:
        finished = []
        for turn in beam_steps(model, ids, settings, width):
            finished += turn.finished
            if turn.kept:
                yield {"text": tok.decode(turn.kept[0].ids)}
        best = max(finished, key=lambda done: done.score)
        new, logprob, stop, text = best.ids, best.logprob, best.stop, text_of(tok, best)
    mean = logprob / max(1, len(new))
    yield {"text": text, "ids": new, "stop": stop, "repetition": repetition(new), "logprob": mean}


@torch.inference_mode()
def curves(session: Session, body: dict) -> Iterator[dict]:
    """Along a text: each token's probability and rank, the entropy, and how many tokens top-k and top-p keep."""
    asked = read(session, body)
    ids = [*asked.prompt, *asked.chosen]
    longest = min(CURVE, asked.model.context_length or CURVE)
    expect(2 <= len(ids) <= longest, "number of tokens", len(ids), f"from 2 to {longest}")
    k = asked.settings.top_k or STRATEGIES["top_k"].arguments["top_k"]
    p = STRATEGIES["top_p"].arguments["top_p"] if asked.settings.top_p is None else asked.settings.top_p
    logits = asked.model(torch.tensor([ids[:-1]]))[0]  # (T - 1, V)
    targets = torch.tensor(ids[1:])

    rows = []
    for row, id in zip(logits, ids[1:]):
        rows.append(token(asked.tok, id) | {
            "p": math.exp(-cross_entropy(row[None], torch.tensor([id])).item()),
            "rank": 1 + (row > row[id]).sum().item() + (row[:id] == row[id]).sum().item(),  # ties: the lowest id first
            "entropy": entropy(row),
            "top_k": kept(filters.top_k(row, k)),
            "top_p": kept(filters.top_p(row, p)),
        })  # fmt: skip
    loss = cross_entropy(logits, targets).item()
    yield {"first": token(asked.tok, ids[0]), "rows": rows, "k": k, "p": p, "loss": loss, "perplexity": math.exp(loss)}


def layout(session: Session, body: dict) -> dict:
    """A conversation as fine-tuning sees it: tokens, what is learnt, and the targets shifted by one (S3, S5)."""
    name = body.get("model")
    expect(isinstance(name, str), "model", name, "a name")
    _, tok = session.open(name)
    question, answer = words(body, "question"), words(body, "answer")
    messages = [Message("user", question)] + ([Message("assistant", answer)] if answer else [])
    ids, learn = encode_conversation(tok, messages)
    batch = collate(Rows([ids], [learn], 0, 0), [0])
    return {
        "tokens": [token(tok, id) | {"learnt": learnt} for id, learnt in zip(ids, learn)],
        "targets": [token(tok, id) if id >= 0 else None for id in batch.targets[0].tolist()],
        "typed": [
            {"name": name, "pieces": [token(tok, id) for id in tok.encode(name)]}
            for name in tok.special
            if name in question + answer
        ],
    }


def knob_milliseconds(V: int = 49_152, turns: int = 15) -> float:
    """How long the server takes when a knob moves, all filters on, with V tokens: the median of several turns."""
    tok = Tokenizer([b"%d" % id for id in range(V)], [])
    logits = 4 * torch.randn(V, generator=torch.Generator().manual_seed(0))
    settings = Settings(1, temperature=0.9, top_k=V // 2, top_p=0.95, min_p=1e-4, repetition_penalty=1.1)
    taken = []
    for _ in range(turns):
        started = time.perf_counter()
        distribution(tok, list(filter_steps(logits, [1, 2, 3], settings)), 0.5, 12)
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def command(asked: Asked, body: dict) -> str:
    """The command that writes the same text: same model, prompt, knobs and seed."""
    knobs = {name: value for name, value in body.get("knobs", {}).items() if value is not None}
    flags = [f"--{name.replace('_', '-')} {value:g}" for name, value in knobs.items() if value != DEFAULTS.get(name)]
    model, text = shlex.quote(asked.name), body["text"]
    if body.get("form") == "question":
        return f"make chat MODEL={model} ARGS={shlex.quote(' '.join(['--temperature 1', *flags]))}"

    flags += [f"--stop {shlex.quote(stop)}" for stop in asked.settings.stop]
    if "\n" in text + "".join(asked.settings.stop):  # make can't pass it on
        start = f".venv/bin/python -m scripts.generate --prompt {shlex.quote(text)} --model {model}"
        return " ".join([start, "--strategy multinomial", f"--seed {asked.seed}", *flags])
    make = f"make generate MODEL={model} PROMPT={shlex.quote(text)} STRATEGY=multinomial SEED={asked.seed}"
    return (make + (f" ARGS={shlex.quote(' '.join(flags))}" if flags else "")).replace("$", "$$")
