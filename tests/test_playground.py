"""The playground without a browser (G12): every figure is decoding's; whoever may not ask is refused in a sentence."""

import http.client
import json
import math
import random
import shlex
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import torch
from conftest import tiny
from helpers import call, refuses

from decoding import Settings, beam_search, beam_steps, draw, filter_steps, generate, top_k, top_p
from minigpt import load, save
from minigpt.formulas import cross_entropy
from scripts import generate as generate_script
from scripts.playground import __main__ as command_line
from scripts.playground import server, session, views
from scripts.support.measuring.answers import as_question, as_text, text_of
from scripts.support.measuring.distribution import entropy
from scripts.support.strategies import STRATEGIES
from scripts.support.terminal import visible
from sft import Message, encode_conversation

starlette_testclient = pytest.importorskip("starlette.testclient", reason="the extra playground is not installed")
uvicorn = pytest.importorskip("uvicorn")

TOKEN, PORT = "the token", 8765
KNOBS = {"repetition_penalty": 1.3, "temperature": 0.7, "top_k": 9, "min_p": 0.01, "top_p": 0.9}
TEXT = "Ada lives in"


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tok):
    path = tmp_path_factory.mktemp("model")
    save(path, tiny(torch.float32, vocab_size=tok.vocab_size, context_length=64), tok)
    return path


@pytest.fixture(scope="module")
def opened(directory):
    return load(directory)


@pytest.fixture
def sitting(directory):
    return session.Session({"a": str(directory), "b": str(directory)}, "a")


@pytest.fixture
def client(sitting):
    app = server.make_app(sitting, TOKEN, PORT)
    return starlette_testclient.TestClient(app, base_url=f"http://127.0.0.1:{PORT}")


def ask(client, name, **body):
    """The answer of a view, one dict or (from a stream) a list."""
    response = client.post(
        f"/api/{name}", json={"model": "a", "text": TEXT} | body, headers={"x-playground-token": TOKEN}
    )
    assert response.status_code == 200, response.text
    if response.headers["content-type"] == "application/x-ndjson":
        return [json.loads(line) for line in response.text.splitlines()]
    return response.json()


# figures


def test_the_bars_are_the_probabilities_that_the_filters_leave(client, opened):
    model, tok = opened
    prompt, chosen = as_text(tok, TEXT), [5, 70, 5]
    view = ask(client, "next", ids=chosen, knobs=KNOBS, seed=4, shown=5)
    logits, _ = model.prefill([prompt + chosen])
    stages = list(filter_steps(logits[0], prompt + chosen, Settings(1, **KNOBS)))
    assert [stage["name"] for stage in view["stages"]] == [name for name, _ in stages]
    assert [name for name, _ in stages] == ["model", "repetition_penalty", "temperature", "top_k", "min_p", "top_p"]

    shown = [row["id"] for row in view["rows"]]
    assert set(logits[0].topk(5).indices.tolist()) <= set(shown) and view["choice"] in shown
    assert [row["piece"] for row in view["rows"]] == [tok.decode([id]) for id in shown]
    for place, (stage, (_, left)) in enumerate(zip(view["stages"], stages)):
        exact = left.double().softmax(-1)
        assert stage["kept"] == left.isfinite().sum()
        assert view["mass"] == pytest.approx(logits[0].double().softmax(-1)[stages[-1][1].isfinite()].sum().item())
        for row in view["rows"]:
            assert row["p"][place] == (pytest.approx(exact[row["id"]].item()) if left[row["id"]].isfinite() else None)

        # the exact tail
        others = [id for id in range(len(left)) if id not in shown]
        assert stage["others"] == left[others].isfinite().sum()
        assert stage["others_p"] == pytest.approx(exact[others].sum().item(), abs=1e-12)
    assert view["stages"][0]["kept"] == view["vocabulary"] == tok.vocab_size
    first_cut = logits[0].masked_fill(stages[-1][1].isfinite(), -math.inf).argmax()
    assert first_cut in shown


def test_without_an_early_end_special_tokens_are_cut_before_all_else(client, opened):
    _, tok = opened
    view = ask(client, "next", endless=True, shown=60)
    assert [stage["name"] for stage in view["stages"]] == ["model", "banned_ids"]
    assert view["stages"][1]["kept"] == tok.vocab_size - len(tok.special)
    assert all((row["p"][1] is None) == row["special"] for row in view["rows"])
    repeated = ask(client, "next", ids=[7, 7, 5, 5, 5, 5, 5, 5])
    assert repeated["repetition"] == pytest.approx(2 / 5)
    assert [token["repeat"] for token in repeated["chosen"]] == [False] * 3 + [True] * 5


def test_a_number_between_a_tokens_ends_on_the_line_draws_it(client, opened):
    model, tok = opened
    logits, _ = model.prefill([as_text(tok, TEXT)])
    _, filtered = list(filter_steps(logits[0], as_text(tok, TEXT), Settings(1, **KNOBS)))[-1]
    for row in ask(client, "next", knobs=KNOBS)["rows"]:
        assert (row["to"] > row["from"]) == (row["p"][-1] is not None)
        if row["to"] > row["from"]:
            u = (row["from"] + row["to"]) / 2
            assert draw(filtered, torch.tensor(u, dtype=torch.float64)) == row["id"]
            assert ask(client, "next", knobs=KNOBS, uniform=u)["choice"] == row["id"]


@pytest.mark.claim("G12")
@pytest.mark.parametrize("knobs", [{}, {"temperature": 0}, KNOBS, {"top_p": 0.5, "no_repeat_ngram": 2}])
def test_stepping_writes_the_text_that_generate_writes(client, opened, knobs):
    model, tok = opened
    [whole] = generate(model, [as_text(tok, TEXT)], eos_id=tok.end_id, seed=11, **{"max_new_tokens": 9} | knobs)
    ids, ended = [], None
    while ended is None:
        view = ask(client, "next", ids=ids, knobs=knobs | {"max_new_tokens": 9}, seed=11)
        ids.append(view["choice"])
        ended = ask(client, "next", ids=ids, knobs=knobs | {"max_new_tokens": 9}, seed=11)["ended"]
    assert (ids, ended) == (whole.ids, whole.stop)
    assert ask(client, "run", knobs=knobs | {"max_new_tokens": 9}, seed=11)[-1]["ids"] == ids


@pytest.mark.parametrize("first, last", [(0, 3), (1, 5), (2, 6), (3, 4)])
def test_a_stop_string_ends_the_text_across_tokens_and_is_never_shown(client, opened, first, last):
    """The stop string runs from within one token of the text into another."""
    model, tok = opened
    knobs = {"max_new_tokens": 12, "temperature": 1.5}
    [whole] = generate(
        model, [as_text(tok, TEXT)], seed=1, max_new_tokens=12, temperature=1.5, banned_ids=tok.special.values()
    )
    begins = [len(tok.decode(whole.ids[:place])) for place in range(13)]
    text = tok.decode(whole.ids)
    inside = min(1, begins[first + 1] - begins[first] - 1)  # 0 for a token of one character
    stop = text[begins[first] + inside : begins[last] + 1]
    shown = text[: text.index(stop)]
    *lines, last_line = ask(client, "run", knobs=knobs, seed=1, endless=True, stop=stop)
    assert (last_line["stop"], last_line["text"]) == ("stop", shown)
    assert all(shown.startswith(line["text"]) for line in lines)

    # step by step, no token shows more than that
    ids, ended = [], None
    while ended is None:
        ids.append(whole.ids[len(ids)])
        view = ask(client, "next", ids=ids, knobs=knobs, seed=1, endless=True, stop=stop)
        ended = view["ended"]
        assert shown.startswith("".join(token["piece"] for token in view["chosen"]))
    assert (ended, ids) == ("stop", last_line["ids"])
    assert "".join(token["piece"] for token in view["chosen"]) == shown
    assert any(token.get("held") for token in view["chosen"])


def test_what_only_looked_like_a_stop_string_is_shown_at_the_end(client, opened):
    _, tok = opened
    ids = tok.encode("and so")
    for length, ended in ((9, None), (len(ids), "length")):
        view = ask(client, "next", ids=ids, knobs={"max_new_tokens": length}, stop="so long")
        assert view["ended"] == ended
        assert "".join(token["piece"] for token in view["chosen"]) == ("and so" if ended else "and ")


def test_the_command_that_the_page_shows_writes_the_same_text(client, directory, monkeypatch, capsys):
    words = {"model": "a", "text": "it's $HOME", "knobs": KNOBS | {"max_new_tokens": 7}, "seed": 2}
    said = ask(client, "run", **words)[-1]["text"]
    shown = ask(client, "next", **words)["command"]
    assert shown.startswith("make generate MODEL=a PROMPT='it'\"'\"'s $$HOME' STRATEGY=multinomial SEED=2 ARGS='")
    flags = shown.partition("ARGS='")[2].rstrip("'").split()
    given = ["--prompt", words["text"], "--model", directory, "--seed", 2, "--strategy"]
    call(monkeypatch, generate_script, *given, "multinomial", *flags)
    assert capsys.readouterr().out.startswith(visible(words["text"] + said))

    # the same with a stop string, which holds a blank, a quotation mark and a sign that make would expand
    shown = ask(client, "next", **words, stop="a 'b$")["command"]
    assert shlex.split(shlex.split(shown.replace("$$", "$"))[-1].removeprefix("ARGS="))[-2:] == ["--stop", "a 'b$"]
    words["stop"] = said[2:4]
    ended = ask(client, "run", **words)[-1]
    assert (ended["text"], ended["stop"]) == (said[: said.index(said[2:4])], "stop")
    call(monkeypatch, generate_script, *given, "multinomial", *flags, "--stop", words["stop"])
    printed = capsys.readouterr().out
    assert printed.startswith(visible(words["text"] + ended["text"]) + "\n") and "stopped by stop" in printed
    refuses(monkeypatch, capsys, "knows no stop strings", generate_script, *given, "beam", "--stop", "a")
    assert "scripts.generate --prompt 'two\nlines'" in ask(client, "next", text="two\nlines")["command"]
    assert ask(client, "next", form="question")["command"].startswith("make chat MODEL=a")


def test_a_knob_asks_the_model_nothing_and_a_step_reads_one_token(client, sitting, monkeypatch):
    model, _ = sitting.open("a")
    read = []
    for name in ("prefill", "step"):
        real = getattr(type(model), name)
        monkeypatch.setattr(type(model), name, lambda *args, name=name, real=real: read.append(name) or real(*args))
    ask(client, "next")
    for p in (0.1, 0.5, 0.9):
        ask(client, "next", knobs={"top_p": p})
    ask(client, "next", ids=[7])
    ask(client, "next", ids=[7, 8])
    ask(client, "next", ids=[7])
    assert read == ["prefill", "step", "step"]
    ask(client, "next", ids=[7, 9])  # another branch: the state was used
    assert read == ["prefill", "step", "step", "prefill"]


def test_what_is_kept_does_not_grow_without_end(sitting, monkeypatch):
    monkeypatch.setattr(session, "TEXTS", 3)
    for id in range(9):
        sitting.logits_after("a", [id])
    assert len(sitting.said) == 3 and len(sitting.states) <= session.STATES


def test_a_thousand_draws_are_those_of_decoding(client, opened):
    model, tok = opened
    found = ask(client, "draws", n=1000, again=5, knobs={"top_k": 4})
    logits, _ = model.prefill([as_text(tok, TEXT)])
    filtered, chance = top_k(logits[0], 4), random.Random(5)
    drawn = [draw(filtered, torch.tensor(chance.random(), dtype=torch.float64)).item() for _ in range(1000)]
    assert found == {"n": 1000, "counts": {str(id): drawn.count(id) for id in sorted(set(drawn))}}


def test_the_beam_is_that_of_decoding_with_greedys_path_marked(client, opened):
    model, tok = opened
    prompt = as_text(tok, TEXT)
    lines = ask(client, "beam", width=3, steps=4, length_penalty=0.5)
    turns = list(beam_steps(model, prompt, Settings(4, tok.end_id), 3, 0.5))
    [greedy] = generate(model, [prompt], max_new_tokens=4, temperature=0, eos_id=tok.end_id)
    assert len(lines) == len(turns)
    for line, turn in zip(lines, turns):
        assert [tuple(path["ids"]) for path in line["kept"]] == [path.ids for path in turn.kept]
        assert [path["logprob"] for path in line["kept"]] == [path.logprob for path in turn.kept]
        for path in line["kept"] + line["pruned"]:
            assert path["greedy"] == (path["ids"] == greedy.ids[: len(path["ids"])])
            parents = {(): 0.0} | {tuple(one["ids"]): one["logprob"] for before in lines for one in before["kept"]}
            assert path["step"] == pytest.approx(path["logprob"] - parents[tuple(path["ids"][:-1])], abs=1e-6)
    best = max((path for line in lines for path in line["finished"]), key=lambda path: path["score"])
    [first, *_] = beam_search(model, prompt, width=3, max_new_tokens=4, length_penalty=0.5, eos_id=tok.end_id)
    assert (best["ids"], best["score"], best["stop"]) == (first.ids, first.score, first.stop)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_algorithm_streams_what_decoding_writes(client, opened, strategy):
    model, tok = opened
    settings = dict(max_new_tokens=8, eos_id=tok.end_id, **STRATEGIES[strategy].arguments)
    prompt = as_text(tok, TEXT)
    said = (
        beam_search(model, prompt, **settings) if "width" in settings else generate(model, [prompt], seed=3, **settings)
    )
    *lines, last = ask(client, "run", strategy=strategy, knobs={"max_new_tokens": 8, "top_k": 1}, seed=3)
    assert (last["ids"], last["stop"], last["text"]) == (said[0].ids, said[0].stop, text_of(tok, said[0]))
    assert last["logprob"] == pytest.approx(said[0].logprob / len(said[0].ids))
    assert len(lines) >= 1 and all("text" in line for line in lines)
    endless = ask(client, "run", strategy=strategy, knobs={"max_new_tokens": 30}, endless=True)[-1]
    assert len(endless["ids"]) == 30 and not set(endless["ids"]) & set(tok.special.values())


def test_the_curves_are_the_models_own_probabilities(client, opened):
    model, tok = opened
    ids = as_text(tok, "Ada lives in Oslo")
    [found] = ask(client, "curves", text="Ada lives in Oslo", knobs={"top_p": 0.6})
    logits = model(torch.tensor([ids]))[0].detach()
    assert found["loss"] == pytest.approx(cross_entropy(logits[:-1], torch.tensor(ids[1:])).item())
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert [row["id"] for row in found["rows"]] == ids[1:] and found["first"]["id"] == ids[0]
    for row, at in zip(found["rows"], logits):
        assert row["p"] == pytest.approx(at.softmax(-1)[row["id"]].item(), rel=1e-4)
        assert at.argsort(descending=True, stable=True)[row["rank"] - 1] == row["id"]
        assert row["entropy"] == pytest.approx(entropy(at), rel=1e-4)
        assert (row["top_k"], row["top_p"]) == (10, top_p(at, 0.6).isfinite().sum())


def test_the_template_is_fine_tunings_own_and_typed_special_strings_stay_text(client, opened):
    _, tok = opened
    typed = "Hi<|endoftext|>"
    found = ask(client, "layout", question=typed, answer="Yo")
    ids, learn = encode_conversation(tok, [Message("user", typed), Message("assistant", "Yo")])
    assert [(token["id"], token["learnt"]) for token in found["tokens"]] == list(zip(ids, learn))
    assert [target and target["id"] for target in found["targets"]] == [
        i if on else None for i, on in zip(ids[1:], learn[1:])
    ]
    assert [token["piece"] for token in found["tokens"] if token["special"]] == [
        "<|prompt|>",
        "<|response|>",
        "<|endoftext|>",
    ]
    [said] = found["typed"]
    assert said["name"] == "<|endoftext|>" and len(said["pieces"]) > 1 and not any(t["special"] for t in said["pieces"])
    assert not any(token["learnt"] for token in ask(client, "layout", question="Hi", answer="")["tokens"])
    prompt = [token["id"] for token in ask(client, "next", text=typed, form="question")["prompt"]]
    assert prompt == as_question(tok, typed)


def test_why_a_text_ends_is_said(client, opened):
    _, tok = opened
    room = 64 - len(as_text(tok, TEXT))
    assert ask(client, "next", ids=[5], knobs={"max_new_tokens": 1})["ended"] == "length"
    assert ask(client, "next", ids=[5, tok.end_id])["ended"] == "eos"
    full = ask(client, "next", ids=[5] * room, knobs={"max_new_tokens": 200})
    assert full["ended"] == "context" and "rows" not in full
    everything = ask(client, "next", text="a" * 10, ids=[5, 5], knobs={"no_repeat_ngram": 1})
    assert everything["blocked"] is False


def test_nothing_left_to_choose_is_no_error(tok):
    left = torch.full((tok.vocab_size,), -math.inf)
    stages = [("model", torch.zeros(tok.vocab_size)), ("no_repeat_ngram", left)]
    view = views.distribution(tok, stages, 0.5, 4)
    assert view["blocked"] and view["choice"] is None and view["stages"][-1]["kept"] == 0
    json.dumps(view, allow_nan=False)


def test_the_start_names_statements_functions_and_lines_that_exist(client):
    found = ask(client, "start")
    assert found["models"] == ["a", "b"] and found["first"] == "a"
    for panel in found["shown"].values():
        for shown in panel:
            file, line = shown["where"].split(":")
            source = (views.ROOT / file).read_text(encoding="utf-8").splitlines()
            assert any(f" {shown['name']}(" in line for line in source[int(line) - 1 : int(line) + 2]), shown


def test_a_knob_is_answered_at_once_at_the_vocabulary_of_a_real_model():
    assert 0 < views.knob_milliseconds(49_152, 5) < 1000  # 20 ms on a quiet machine; `make claims` has the figure


# who may ask, and what


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/static/page.css", "/static/icon.svg"])
def test_pages_come_with_headers_that_let_nothing_else_in(client, path):
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in response.headers
    assert (TOKEN in response.text) == (path == "/")


def test_the_page_asks_nothing_of_anybody_else():
    for path in server.STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text and "innerHTML" not in text and "eval(" not in text and " onclick=" not in text, (
            path.name
        )


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_this_machine_is_answered_by_each_of_its_names(client, name):
    assert client.get("/", headers={"host": f"{name}:{PORT}", "origin": f"http://{name}:{PORT}"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8765"},
        {"host": "127.0.0.1"},
        {"host": "127.0.0.1:80"},
        {"host": "127.0.0.1:8765.evil.example"},
        {"host": "localhost.:8765"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8765"},
    ],
)
def test_others_are_refused_on_every_route(client, headers):
    for method, path in [("GET", "/"), ("GET", "/static/main.js"), ("POST", "/api/next"), ("GET", "/nowhere")]:
        response = client.request(method, path, headers=headers)
        assert response.status_code == 403 and response.json()["error"].startswith("this page is for the machine")


def post(client, path="/api/next", **options):
    options["headers"] = {"x-playground-token": TOKEN, "content-type": "application/json"} | options.get("headers", {})
    response = client.post(path, **options)
    assert response.headers["content-security-policy"]
    [(key, said)] = response.json().items()
    assert key == "error" and "\n" not in said
    return response.status_code, said


def test_a_request_has_to_be_json_with_the_token_of_this_start(client):
    stranger = {"x-playground-token": "another"}
    assert post(client, json={}, headers=stranger) == (403, "the server was started anew: reload the page")
    assert post(client, data={"model": "a"}, headers={"content-type": "application/x-www-form-urlencoded"})[0] == 415
    assert post(client, content=b"{}", headers={"content-type": "text/plain"})[0] == 415
    assert post(client, content=b"{")[0] == 400
    assert post(client, content=b"[" * 60_000)[0] == 400
    assert post(client, content=b"\xff")[0] == 400
    assert post(client, json=[1]) == (400, "the request must be a JSON object")
    assert post(client, content=b" " * 70_000)[0] == 413
    assert post(client, "/api/nothing", json={})[0] == 404
    assert client.get("/api/next").status_code == 405
    assert client.get("/static/..%2Fserver.py").status_code == 404
    assert client.get("/static/index.html").status_code == 404
    assert client.get("/nothing").json() == {"error": "there is no such page"}


@pytest.mark.parametrize("view", ["next", "draws", "beam", "run", "curves"])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "/etc/passwd"}, "model is '/etc/passwd'; expected one of a, b"),
        ({"model": 3}, "model is 3"),
        ({"model": ["a"]}, "model is ['a']"),
        ({"text": None}, "text is None"),
        ({"text": "x" * 20_001}, "length of text is 20001"),
        ({"text": "\ud800"}, "half a character"),
        ({"text": "word " * 99}, "length of the prompt of row 0"),
        ({"form": "poem"}, "form is 'poem'"),
        ({"ids": "12"}, "ids"),
        ({"ids": [99999]}, "entry of ids is 99999"),
        ({"ids": [-1]}, "entry of ids is -1"),
        ({"ids": [1.5]}, "entry of ids is 1.5"),
        ({"ids": [5] * 99}, "number of chosen tokens is 99"),
        ({"ids": 7}, "ids is 7"),
        ({"knobs": []}, "knobs is []"),
        ({"knobs": {"top_q": 1}}, "name of a knob is 'top_q'"),
        ({"knobs": {"top_p": 1.5}}, "top_p is 1.5"),
        ({"knobs": {"top_k": 0}}, "top_k is 0"),
        ({"knobs": {"top_k": 1.5}}, "top_k is 1.5"),
        ({"knobs": {"temperature": -1}}, "temperature is -1"),
        ({"knobs": {"temperature": True}}, "temperature is True"),
        ({"knobs": {"top_k": "3"}}, "top_k is '3'"),
        ({"knobs": {"top_k": 10**12}}, "top_k is"),
        ({"knobs": {"temperature": math.nan}}, "temperature is nan"),
        ({"knobs": {"max_new_tokens": 401}}, "max_new_tokens is 401; expected at most 400"),
        ({"stop": 3}, "stop is 3"),
        ({"stop": "x" * 101}, "length of stop is 101; expected at most 100"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_a_bad_value_is_named_in_one_sentence(client, view, body, said):
    content = json.dumps({"model": "a", "text": TEXT} | body).encode()
    status, found = post(client, f"/api/{view}", content=content)
    assert status == 400 and said in found


@pytest.mark.parametrize(
    ("view", "body", "said"),
    [
        ("next", {"uniform": 1}, "uniform is 1"),
        ("next", {"uniform": "a"}, "uniform is 'a'"),
        ("next", {"shown": 61}, "shown is 61"),
        ("draws", {"n": 10_001}, "n is 10001"),
        ("draws", {"again": -1}, "again is -1"),
        ("beam", {"width": 11}, "width is 11"),
        ("beam", {"steps": 0}, "steps is 0"),
        ("beam", {"length_penalty": "a"}, "length_penalty is 'a'"),
        ("beam", {"length_penalty": 99}, "length_penalty is 99"),
        ("run", {"strategy": "best"}, "strategy is 'best'"),
        ("run", {"strategy": ["top_p"]}, "strategy is"),
        ("curves", {"text": ""}, "number of tokens is 1"),
        ("layout", {"question": 1}, "question is 1"),
        ("layout", {"question": "a", "answer": None}, "answer is None"),
        ("layout", {"model": "c"}, "model is 'c'"),
    ],
)
def test_a_bad_value_of_one_view_is_named_too(client, view, body, said):
    status, found = post(client, f"/api/{view}", json={"model": "a", "text": TEXT} | body)
    assert status == 400 and said in found


def test_a_model_that_went_away_is_a_sentence(tmp_path):
    app = server.make_app(session.Session({"a": str(tmp_path / "gone")}, "a"), TOKEN, PORT)
    client = starlette_testclient.TestClient(app, base_url=f"http://127.0.0.1:{PORT}")
    status, said = post(client, json={"model": "a", "text": "Hi"})
    assert status == 400 and "no such run directory" in said


# over a real socket


@contextmanager
def serving(sitting):
    """A real server; gives its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(
        server.make_app(sitting, TOKEN, port), "127.0.0.1", port, http="h11", lifespan="off", log_level="error"
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    try:
        yield port
    finally:
        running.should_exit = running.force_exit = True
        thread.join(10)


def asking(port: int, name: str, **body) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"x-playground-token": TOKEN, "content-type": "application/json"}
    connection.request("POST", f"/api/{name}", json.dumps({"model": "a", "text": TEXT} | body), headers)
    return connection


@pytest.fixture
def slow(sitting, monkeypatch):
    """Every step of the model takes 20 ms; gives the list of steps."""
    model, _ = sitting.open("a")
    taken, real = [], type(model).step

    def step(*args):
        time.sleep(0.02)
        taken.append(time.monotonic())
        return real(*args)

    monkeypatch.setattr(type(model), "step", step)
    return taken


ENDLESS = {"endless": True, "knobs": {"max_new_tokens": 50}}


def test_a_reader_that_goes_away_frees_the_model(sitting, slow):
    with serving(sitting) as port:
        connection = asking(port, "run", **ENDLESS)
        response = connection.getresponse()
        assert json.loads(response.readline())["text"]
        response.close()
        connection.close()
        last = asking(port, "run", **ENDLESS | {"knobs": {"max_new_tokens": 2}}).getresponse().read().splitlines()[-1]
        assert json.loads(last)["stop"] == "length"
        assert len(slow) < 30  # 50 of the first reader, had it gone on
        before = len(slow)
        time.sleep(0.2)
        assert len(slow) == before


def test_two_browsers_at_once_get_what_each_asked_for(sitting, slow):
    with serving(sitting) as port:
        both = [asking(port, "run", seed=seed, **ENDLESS) for seed in (1, 2)]
        stepping = json.loads(asking(port, "next", ids=[5]).getresponse().read())  # needs no turn
        assert stepping["choice"] is not None
        said = [json.loads(connection.getresponse().read().splitlines()[-1]) for connection in both]
    alone = [list(views.run(sitting, {"model": "a", "text": TEXT, "seed": seed} | ENDLESS))[-1] for seed in (1, 2)]
    assert said == alone and said[0]["ids"] != said[1]["ids"]


def test_generations_take_turns(sitting, slow):
    with serving(sitting) as port:
        first = asking(port, "run", **ENDLESS)
        first_response = first.getresponse()
        first_response.readline()
        second = asking(port, "run", **ENDLESS)
        ended = []
        reading = threading.Thread(target=lambda: (second.getresponse().readline(), ended.append(time.monotonic())))
        reading.start()
        first_response.read()
        reading.join(20)
        assert ended[0] >= slow[48]  # the first one's last step


def test_a_generation_ends_when_its_time_is_up(sitting, slow, monkeypatch):
    monkeypatch.setattr(server, "SECONDS", 0.3)
    with serving(sitting) as port:
        response = asking(port, "run", **ENDLESS).getresponse()
        with pytest.raises(http.client.IncompleteRead):
            response.read()
        assert len(slow) < 40


# the command


def test_without_a_model_the_command_says_what_to_run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    refuses(monkeypatch, capsys, "run `make demo` first", command_line)
    refuses(monkeypatch, capsys, "no such run directory", command_line, "--model", "runs/none")


def test_the_page_offers_the_models_that_are_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("demo/base", "demo/smaller", "books"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    assert list(session.models_here("books")) == [
        *(["base"]),
        *(["smollm"] if "smollm" in session.models_here("a") else []),
        "smaller",
        "runs/books",
        "books",
    ]
