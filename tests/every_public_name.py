"""A program that uses each public name once. test_install.py runs it where only the built wheel is installed."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import decoding
import minigpt
import sft


def use_minigpt(folder: Path) -> tuple:
    """Pretrain two steps, and bring everything to disk and back."""
    tok = minigpt.Tokenizer.train(["low lower lowest"] * 9, 262)
    shape = dict(context_length=32, n_layers=1, n_heads=2, d_model=8)
    model = minigpt.GPT(minigpt.GPTConfig(vocab_size=tok.vocab_size, **shape))
    minigpt.write_tokens(folder / "tokens.npy", [tok.encode("low lower")] * 9, tok.end_id, tok.vocab_size)
    tokens = minigpt.read_tokens(folder / "tokens.npy")
    batches = minigpt.token_batches(tokens, tok.end_id, 16, 2)
    batch, state = batches(0), minigpt.TrainState()
    assert isinstance(batch, minigpt.Batch) and batch.learnt() == (batch.targets != minigpt.IGNORE).sum()
    for step in minigpt.train(model, batches, minigpt.TrainConfig(steps=2, warmup=0), state):
        assert isinstance(step, minigpt.Step)
    assert minigpt.evaluate(model, minigpt.all_batches(tokens, tok.end_id, 16, 2)) > 0

    minigpt.save_checkpoint(folder / "run", model, state)
    again = minigpt.GPT(model.config)
    minigpt.load_checkpoint(folder / "run", again)
    minigpt.save(folder / "model", again, tok)
    loaded, _ = minigpt.load(folder / "model")
    assert torch.allclose(loaded(batch.inputs), model.eval()(batch.inputs), atol=1e-6)
    return loaded, tok


def use_decoding(model: decoding.LanguageModel) -> None:
    """Each decoder, each filter, and the bridge."""
    ids = [1, 2]
    settings = decoding.Settings(max_new_tokens=3, top_k=5)
    steps = list(decoding.generate_steps(model, ids, settings, seed=0))
    (generation,) = decoding.generate(model, [ids], max_new_tokens=3, top_k=5, seed=0)
    assert isinstance(generation, decoding.Generation) and generation.ids == [step.id for step in steps]
    assert list(decoding.stream(decoding.uncached(model), ids, max_new_tokens=3, top_k=5, seed=0)) == generation.ids
    letters = lambda ids: "".join(map(chr, ids))
    assert "".join(decoding.stream_text(model, ids, max_new_tokens=3, top_k=5, seed=0, decode=letters)) == letters(
        generation.ids
    )
    assert decoding.why_stop(generation.ids[-1], 3, 99, settings) == "length"

    (best,) = decoding.beam_search(model, ids, width=1, max_new_tokens=2)
    (*_, last) = decoding.beam_steps(model, ids, settings, width=1)
    assert isinstance(last, decoding.BeamStep) and last.finished[0].ids[:2] == best.ids

    logits = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert decoding.draw(decoding.top_k(logits, 1), torch.tensor(0.5, dtype=torch.float64)) == 3
    for kept in (decoding.top_p(logits, 0), decoding.min_p(logits, 1), decoding.temperature(logits, 0)):
        assert kept.argmax() == 3
    assert decoding.repetition_penalty(logits, [3], 2.0).tolist() == [0.0, 1.0, 2.0, 1.5]
    assert decoding.no_repeat_ngram(logits, [3], 1)[3] == decoding.ban(logits, [3])[3] == -torch.inf
    assert [name for name, _ in decoding.filter_steps(logits, [3], settings)]


def use_sft(model: minigpt.GPT, tok: minigpt.Tokenizer, folder: Path) -> None:
    """Fine-tune one step, with batches made by hand as well."""
    (folder / "data.jsonl").write_text(json.dumps({"prompt": "low", "response": "lower"}), encoding="utf-8")
    examples = sft.read_examples(folder / "data.jsonl")
    same = sft.Example([sft.Message("user", "low"), sft.Message("assistant", "lower")])
    ids, learn = sft.encode_conversation(tok, same.messages)
    assert examples[0].messages == same.messages and len(ids) == len(learn) and ids[-1] in sft.end_ids(tok)

    rows = sft.encode_examples(tok, examples, 32)
    batch = sft.collate(rows, [0])
    batches = sft.example_batches(rows, 1)
    assert sft.mix(batches, batches)(0).inputs.equal(batch.inputs.repeat(2, 1))
    assert sft.epoch_picks(rows, 1, 0, 0) == [[0]]
    assert len(list(sft.fine_tune(model, tok, examples, minigpt.TrainConfig(steps=1, warmup=0), batch_size=1))) == 1


def main() -> None:
    with TemporaryDirectory() as name:
        model, tok = use_minigpt(Path(name))
        use_decoding(model)
        use_sft(model, tok, Path(name))
    print(*sorted({Path(package.__file__).parent.parent for package in (minigpt, decoding, sft)}), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
