"""Three ends are three things: between documents, after an answer, padding. And embedding rows that are no token."""

import json

import pytest
import torch
import transformers
from conftest import tiny
from helpers import call, refuses
from test_chat_template import CHATML, HEADERS, IM, LLAMA, made

from decoding import beam_search, generate
from minigpt import Tokenizer, TrainConfig, load, save
from minigpt.tokenizer import END, SPECIAL_TOKENS
from scripts import ask, chat, compare, finetune
from scripts import generate as generating
from sft import Example, Message, encode_conversation, end_ids, fine_tune

KINDS = {
    "ours": lambda: made(list(SPECIAL_TOKENS), None),
    "ChatML, another eos": lambda: made(IM, CHATML, end=END, start=[]),
    "ChatML without a template": lambda: made(IM, None, end=END, start=[]),
    "Llama 3": lambda: made(HEADERS, LLAMA, end=HEADERS[1], start=[256]),
    "plain GPT-2": lambda: made([END], None, start=[]),
}
TAUGHT = [END, "<|im_end|>", "<|im_end|>", "<|eot_id|>", END]


@pytest.mark.parametrize("name, taught", zip(KINDS, TAUGHT), ids=KINDS)
def test_a_fine_tuned_model_of_each_kind_stops_in_every_command_and_in_transformers(
    monkeypatch, capsys, tmp_path, name, taught
):
    # a base model, and its answers learnt by the command
    base, out, tok = tmp_path / "base", tmp_path / "out", KINDS[name]()
    save(base, tiny(torch.float32, vocab_size=tok.vocab_size, context_length=160), tok)
    row = json.dumps({"prompt": "Say i", "response": "OK."})
    (tmp_path / "data.jsonl").write_text("\n".join([row] * 12))
    flags = ["--data", tmp_path / "data.jsonl", "--base", base, "--out", out, "--steps", 60, "--lr", 0.02]
    assert call(monkeypatch, finetune, *flags, "--batch-size", 4, "--max-new-tokens", 12) == 0
    assert json.loads((out / "results.json").read_text())["after"]["stopped"] == 1

    # every command stops, and shows no end
    assert call(monkeypatch, ask, "--question", "Say i", "--model", out) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("⟶ OK.")
    model, again = load(out)
    prompt = encode_conversation(again, [Message("user", "Say i")])[0]
    typed = iter(["Say i", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    assert call(monkeypatch, chat, "--model", out) == 0
    assert "model OK." in [line.rstrip().split("\x1b")[0] for line in capsys.readouterr().out.splitlines()]

    # so does the library, with the ids that were saved, and `transformers`
    [said] = generate(model, [prompt], max_new_tokens=12, temperature=0, eos_id=again.end_ids)
    assert (said.stop, again.decode(said.ids)) == ("eos", f"OK.{taught}")
    assert tok.special[taught] in again.end_ids and tok.end_id in again.end_ids
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    ids = torch.tensor([prompt])
    assert theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)[
        0, len(prompt) :
    ].tolist() == said.ids  # fmt: skip


def test_the_library_alone_saves_the_end_that_it_taught(tmp_path):
    tok = KINDS["ChatML, another eos"]()
    model = tiny(torch.float32, vocab_size=tok.vocab_size, context_length=96)
    example = Example([Message("user", "Hi"), Message("assistant", "Yo")])
    list(fine_tune(model, tok, [example], TrainConfig(steps=1), batch_size=1))
    save(tmp_path, model, tok)
    for file in ("generation_config.json", "config.json"):
        assert json.loads((tmp_path / file).read_text())["eos_token_id"] == [258, 256]
    again = load(tmp_path)[1]
    assert (again.end_id, set(again.end_ids), end_ids(again)[0]) == (256, {256, 258}, 258)


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_every_id_that_ends_an_answer_is_read_and_written_back(tmp_path, file):
    tok = made(IM, None, end=END, start=[])
    save(tmp_path / "a", tiny(vocab_size=tok.vocab_size), tok)

    def tell(file: str, **changes) -> None:
        told = json.loads((tmp_path / "a" / file).read_text())
        kept = {key: value for key, value in (told | changes).items() if value is not None}
        (tmp_path / "a" / file).write_text(json.dumps(kept))

    tell(file, eos_token_id=[258, 0])
    model, read = load(tmp_path / "a")
    assert (read.end_id, set(read.end_ids)) == (256, {256, 258, 0})
    save(tmp_path / "b", model, read)
    assert set(json.loads((tmp_path / "b" / "generation_config.json").read_text())["eos_token_id"]) == {256, 258, 0}

    # without its name, the id alone tells the end
    tell("tokenizer_config.json", eos_token=None)
    for each in ("generation_config.json", "config.json"):
        tell(each, eos_token_id=258)
    assert load(tmp_path / "a")[1].end_ids == (258,)
    for wrong in (259, -1, "x", 1.0, True, {}):
        tell(file, eos_token_id=[wrong])
        with pytest.raises(ValueError, match=f": {file}: eos_token_id is "):
            load(tmp_path / "a")


@pytest.mark.parametrize("special, ends", [(["<s>", "<|im_start|>", "<|im_end|>"], [258]), ([], [65])])
def test_a_model_whose_files_name_no_end_between_documents_is_saved_all_the_same(tmp_path, special, ends):
    tok = made(special, CHATML if special else None, end=END, start=[], end_ids=ends)
    model = tiny(torch.float32, vocab_size=tok.vocab_size, context_length=96)
    if special:  # fine-tuning teaches the template's end
        example = Example([Message("user", "Hi"), Message("assistant", "Yo")])
        list(fine_tune(model, tok, [example], TrainConfig(steps=1), batch_size=1))
    save(tmp_path, model, tok)
    told = json.loads((tmp_path / "generation_config.json").read_text())
    assert told == {"bos_token_id": None, "eos_token_id": ends[0], "pad_token_id": None}
    assert load(tmp_path)[1].end_ids == tuple(ends)
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert theirs.eos_token_id == ends[0]


def test_rows_without_a_token_are_never_drawn(monkeypatch, capsys, tmp_path):
    tok = made(["<|endoftext|>", "<|im_end|>"], None, start=[])
    model = tiny(torch.float32, vocab_size=320, context_length=120)
    with torch.no_grad():
        model.head.weight[258:] *= 30  # what it would most like to say
    save(tmp_path, model, tok)
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 10)
    opened, _ = load(tmp_path)
    torch.testing.assert_close(opened(torch.tensor([[1, 2]])), model(torch.tensor([[1, 2]])))
    for one in [
        *generate(opened, [[1, 2], [3]], max_new_tokens=9, seed=0),
        *beam_search(opened, [1, 2], width=3, max_new_tokens=5),
    ]:
        assert max(one.ids) < 258
    asked = ["--model", tmp_path, "--max-new-tokens", 5]
    assert call(monkeypatch, generating, "--prompt", "Ada", *asked) == 0
    assert call(monkeypatch, generating, "--prompt", "Ada", *asked, "--strategy", "beam") == 0
    assert call(monkeypatch, generating, "--prompt", "Ada", *asked, "--backend", "numpy") == 0
    assert call(monkeypatch, ask, "--question", "Ada", *asked) == 0
    assert call(monkeypatch, compare, "--prompt", "Ada", *asked, "--runs", 2, "--out", tmp_path / "compared") == 0
    typed = iter(["Who?", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    assert call(monkeypatch, chat, *asked, "--temperature", 1) == 0
    flags = ["--data", tmp_path / "data.jsonl", "--base", tmp_path, "--out", tmp_path / "out", "--steps", 1]
    assert call(monkeypatch, finetune, *flags, "--max-new-tokens", 5) == 0


def test_an_id_between_others_that_no_token_has_is_never_drawn(monkeypatch, capsys, tmp_path):
    tok = Tokenizer([bytes([byte]) for byte in range(256)], {END: 300}, start=[])
    model = tiny(torch.float32, vocab_size=301, context_length=99)
    with torch.no_grad():
        model.head.weight[256:300] *= 30  # what it would most like to say
    save(tmp_path, model, tok)
    opened, again = load(tmp_path)
    for one in generate(opened, [[1, 2], [3]], max_new_tokens=20, seed=0):
        assert not set(one.ids) & set(range(256, 300))
        again.decode(one.ids)
    for flags in ([], ["--strategy", "beam"], ["--backend", "numpy"]):
        assert call(monkeypatch, generating, "--prompt", "Ada", "--model", tmp_path, "--max-new-tokens", 5, *flags) == 0


def test_an_id_without_a_row_is_refused_by_name(monkeypatch, capsys, tmp_path):
    tok = made([*IM, "<|more|>"], None)
    save(tmp_path, tiny(vocab_size=258), tok)
    with pytest.raises(ValueError, match=r"the tokenizer has 260 ids and the model 258 .*'<\|more\|>' has none"):
        load(tmp_path)
    refuses(monkeypatch, capsys, "has none", ask, "--question", "Who?", "--model", tmp_path)


@pytest.mark.parametrize("module", [ask, chat, finetune])
def test_a_layout_that_words_can_forge_is_said(monkeypatch, capsys, tmp_path, module):
    save(tmp_path, tiny(torch.float32, vocab_size=257, context_length=99), KINDS["plain GPT-2"]())
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    monkeypatch.setattr("builtins.input", lambda _: "")
    tuning = ["--data", tmp_path / "data.jsonl", "--base", tmp_path, "--out", tmp_path / "out", "--steps", 1]
    asking = ["--question", "Who?", "--model", tmp_path, "--max-new-tokens", 1]
    flags = {ask: asking, chat: ["--model", tmp_path], finetune: tuning}[module]
    assert call(monkeypatch, module, *flags) == 0
    assert "a question that holds “### Response:” can forge an answer" in capsys.readouterr().out


def test_generating_stops_at_every_end_too(monkeypatch, capsys, tmp_path):
    tok = KINDS["Llama 3"]()
    model = tiny(torch.float32, vocab_size=tok.vocab_size, context_length=99)
    save(tmp_path, model, tok)
    [said] = generate(model, [[256, *tok.encode("Ada")]], max_new_tokens=1, temperature=0)
    tok.end_ids = (tok.end_id, *said.ids)  # the first token that it would write ends a text, too
    save(tmp_path, model, tok)
    assert call(monkeypatch, generating, "--prompt", "Ada", "--model", tmp_path, "--strategy", "greedy") == 0
    assert "1 tokens, stopped by eos" in capsys.readouterr().out
