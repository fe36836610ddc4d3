"""Fine-tuning is pretraining on other data: the one loop, and a model that answers at the end."""

import json

import pytest
import torch
from conftest import TEXTS, once, tiny
from helpers import call

import sft.finetune
from decoding import generate
from minigpt import IGNORE, Batch, Tokenizer, TrainConfig, TrainState, load, save, train, write_tokens
from minigpt.tokenizer import END
from scripts import finetune, show_sft
from scripts.support import fine_tuning
from scripts.support.measuring.text_loss import text_loss
from sft import Example, Message, encode_conversation, encode_examples, example_batches, fine_tune

pytestmark = pytest.mark.usefixtures("edition")  # fast and plain

TOWNS = {"Ada": "Oslo", "the low": "the best", "they": "the newer"}


def example(question: str, answer: str) -> Example:
    return Example([Message("user", question), Message("assistant", answer)])


EXAMPLES = [example(f"Where does {name} live?", town) for name, town in TOWNS.items()]


@pytest.fixture
def base(tok):
    return tiny(torch.float32, vocab_size=tok.vocab_size, context_length=48)


def plan(steps: int = 4, **changes) -> TrainConfig:
    return TrainConfig(**dict(steps=steps, lr=1e-2, warmup=2, seed=5) | changes)


@pytest.mark.claim("S5")
def test_every_optimizer_step_passes_through_the_one_loop(base, tok, monkeypatch):
    # docs/known_bugs.md: the mask is lost when a second loop is rewritten; here there is no second loop
    before, calls, state = [p.clone() for p in base.parameters()], [], TrainState()

    def recorder(*arguments):
        calls.append(arguments)
        yield from ("step 1", "step 2")

    monkeypatch.setattr(sft.finetune, "train", recorder)
    config = plan()
    assert list(fine_tune(base, tok, EXAMPLES, config, batch_size=2, state=state)) == ["step 1", "step 2"]
    ((model, batches, *rest),) = calls
    assert model is base and rest == [config, state]
    assert all(torch.equal(p, q) for p, q in zip(before, base.parameters()))  # nothing was learnt elsewhere
    assert isinstance(batches(0), Batch) and len(batches(0).inputs) + len(batches(1).inputs) == len(EXAMPLES)
    assert (batches(0).targets == IGNORE).any()


def test_the_loop_that_fine_tuning_calls_is_pretrainings():
    assert sft.finetune.train is train


@pytest.mark.claim("S5")
@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_fine_tuning_is_pretraining_on_batches_of_examples(tok, base, loss_on):
    rows = encode_examples(tok, EXAMPLES, 48, loss_on)
    twin = tiny(torch.float32, vocab_size=tok.vocab_size, context_length=48)
    expected = [step.loss for step in train(twin, example_batches(rows, 2, seed=5), plan())]
    assert [step.loss for step in fine_tune(base, tok, EXAMPLES, plan(), batch_size=2, loss_on=loss_on)] == expected
    assert all(torch.equal(p, q) for p, q in zip(twin.parameters(), base.parameters()))


@pytest.mark.claim("S6")
def test_a_fine_tuned_model_answers_and_stops(base, tok):
    # docs/known_bugs.md: where the end token is not learnt, an answer never ends
    steps = list(fine_tune(base, tok, EXAMPLES, plan(150, lr=0.03, warmup=10)))
    assert steps[-1].loss < 0.05 < steps[0].loss
    prompts = [encode_conversation(tok, example.messages[:1])[0] for example in EXAMPLES]
    answers = generate(base, prompts, max_new_tokens=12, temperature=0, eos_id=tok.special[END])
    assert [tok.decode(answer.ids) for answer in answers] == [town + END for town in TOWNS.values()]


def test_an_interrupted_fine_tuning_goes_on_bit_for_bit(tok):
    whole, cut = (tiny(torch.float32, vocab_size=tok.vocab_size, context_length=48, dropout=0.2) for _ in range(2))
    state = TrainState()
    list(fine_tune(whole, tok, EXAMPLES, plan(6), batch_size=2))
    steps = fine_tune(cut, tok, EXAMPLES, plan(6), batch_size=2, state=state)
    assert [next(steps).step, next(steps).step] == [1, 2]
    steps.close()
    assert [step.step for step in fine_tune(cut, tok, EXAMPLES, plan(6), batch_size=2, state=state)] == [3, 4, 5, 6]
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), cut.parameters()))


def test_pieces_of_a_batch_with_unequal_answers_give_the_same_gradient(tok):
    # docs/known_bugs.md: accumulation averages averages
    examples, results = [example("u" * n, "o" * (3 * n)) for n in range(1, 9)], []
    for pieces in (1, 2, 8):
        model = tiny(vocab_size=tok.vocab_size, context_length=64)
        config = plan(1, micro_batches=pieces, clip=1e9)
        (step,) = fine_tune(model, tok, examples, config, batch_size=8)
        results.append([step.loss, *[parameter.grad for parameter in model.parameters()]])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(results[0], results[2], rtol=1e-10, atol=1e-12)


def test_the_prompts_text_is_no_target(base, tok):
    seen = []
    rows = encode_examples(tok, EXAMPLES, 48)
    for step in range(3):
        targets = example_batches(rows, 3, 5)(step).targets
        seen += [tok.decode(row[row != IGNORE].tolist()) for row in targets]
    assert sorted(set(seen)) == sorted(town + END for town in TOWNS.values())


def test_examples_that_do_not_fit_are_refused_at_the_call(base, tok):
    with pytest.raises(ValueError, match="nothing would be learnt"):
        fine_tune(base, tok, [example("Where? " * 60, "Oslo")], plan())


@pytest.mark.claim("S5")
def test_replayed_base_documents_are_rows_of_the_same_batches(base, tok, monkeypatch):
    seen = []
    monkeypatch.setattr(sft.finetune, "train", lambda model, batches, *rest: iter([seen.append(batches)]))
    document = tok.encode(TEXTS[0])
    replay = lambda step: Batch.from_rows([document[:-1]], [document[1:]])
    list(fine_tune(base, tok, EXAMPLES, plan(), batch_size=2, replay=replay))
    batch, (alone,) = seen[0](1), [example_batches(encode_examples(tok, EXAMPLES, 48), 2, 5)(1)]
    assert len(batch.inputs) == len(alone.inputs) + 1
    assert batch.learnt() == alone.learnt() + len(document) - 1


@pytest.fixture
def own_file(tmp_path, base, tok):
    """A base model beside its text, and a newcomer's file with a broken row."""
    save(tmp_path / "base", base, tok)
    rows = [json.dumps({"prompt": f"Where does {name} live?", "response": town}) for name, town in TOWNS.items()]
    (tmp_path / "mine.jsonl").write_text("\n".join([*rows * 4, '{"prompt": "Who?"}']))
    (tmp_path / "text.txt").write_text("<|endoftext|>".join(TEXTS * 8))
    return tmp_path / "mine.jsonl"


@once
def test_one_command_fine_tunes_on_a_file_and_says_whether_it_helped(monkeypatch, capsys, tmp_path, own_file):
    flags = ["--data", own_file, "--base", tmp_path / "base", "--out", tmp_path / "out", "--batch-size", 4]
    flags += ["--corpus", tmp_path / "text.txt", "--skip-bad", "--max-new-tokens", 12]
    assert call(monkeypatch, finetune, *flags, "--steps", 120, "--lr", 0.02) == 0
    said = capsys.readouterr().out
    assert f"skipped {own_file}:13: the key 'response' is missing" in said
    found = json.loads((tmp_path / "out/results.json").read_text())
    before, after = found["before"], found["after"]
    assert found["asked"] == 1 and before["exact"] == 0 and after["exact"] == after["stopped"] == 1
    assert after["val_loss"] < 0.1 < before["val_loss"]
    assert after["text_loss"] > before["text_loss"]  # it forgets
    assert "answered word for word" in said
    assert "before: " in said and "meant: " in said
    model, tok = load(tmp_path / "out")
    assert text_loss(model, tok, fine_tuning.base_text(str(tmp_path / "out"), tok, [], tmp_path)[1], 4) == (
        pytest.approx(after["text_loss"], rel=1e-3)
    )  # its text now lies beside it
    again = ["--data", own_file, "--skip-bad", "--base", tmp_path / "out", "--out", tmp_path / "two", "--steps", 1]
    assert call(monkeypatch, finetune, *again, "--replay", 0.5) == 0


def test_replay_needs_text_and_a_share(monkeypatch, capsys, tmp_path, own_file):
    flags = ["--data", own_file, "--skip-bad", "--base", tmp_path / "base", "--out", tmp_path / "out", "--steps", 1]
    assert call(monkeypatch, finetune, *flags, "--replay", 0.5) == 2
    assert "add --corpus" in capsys.readouterr().err
    assert call(monkeypatch, finetune, *flags, "--corpus", tmp_path / "text.txt", "--replay", 1.5) == 2
    assert "--replay 1.5: must be between 0 and 1" in capsys.readouterr().err
    flags += ["--corpus", tmp_path / "text.txt", "--replay", 0.5, "--batch-size", 1]
    assert call(monkeypatch, finetune, *flags) == 2
    assert "--batch-size 1: leaves no row for demonstrations" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["steps", "batch-size"])
def test_numbers_that_make_no_sense_are_refused_before_anything_is_written(
    monkeypatch, capsys, tmp_path, own_file, flag
):
    flags = ["--data", own_file, "--skip-bad", "--base", tmp_path / "base", "--out", tmp_path / "out"]
    assert call(monkeypatch, finetune, *flags, f"--{flag}", 0) == 2
    assert f"--{flag}: '0': must be a whole number, at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@once
def test_replay_forgets_less(monkeypatch, tmp_path, own_file):
    flags = ["--data", own_file, "--skip-bad", "--base", tmp_path / "base", "--corpus", tmp_path / "text.txt"]
    losses = []
    for share in (0, 0.3):
        out = tmp_path / f"replay{share}"
        assert call(monkeypatch, finetune, *flags, "--out", out, "--steps", 40, "--replay", share, "--answers", 0) == 0
        losses.append(json.loads((out / "results.json").read_text())["after"]["text_loss"])
    assert losses[1] < losses[0]


def test_replayed_documents_take_their_rows_from_the_batch(monkeypatch, tmp_path, own_file):
    seen, steps = [], fine_tune
    monkeypatch.setattr(
        fine_tuning, "fine_tune", lambda *rest, **options: seen.append(options) or steps(*rest, **options)
    )
    flags = ["--data", own_file, "--skip-bad", "--base", tmp_path / "base", "--corpus", tmp_path / "text.txt"]
    flags += ["--out", tmp_path / "out", "--steps", 1, "--answers", 0, "--batch-size", 8, "--replay", 0.25]
    assert call(monkeypatch, finetune, *flags) == 0
    (options,) = seen
    assert (options["batch_size"], len(options["replay"](0).inputs)) == (6, 2)


@pytest.mark.claim("S3")
def test_what_is_learnt_of_a_demonstration_stands_in_brackets(monkeypatch, capsys, tmp_path, own_file):
    assert call(monkeypatch, show_sft, "--data", own_file, "--model", tmp_path / "base", "--n", 1, "--skip-bad") == 0
    first, tokens, skipped, total = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{own_file}:1: ") and first.endswith("tokens learnt")
    given, _, learnt = tokens.partition("<|response|>|")
    assert given.strip().startswith("<|prompt|>|") and "[" not in given
    assert learnt.replace("][", "") == "[Oslo<|endoftext|>]"
    assert "mine.jsonl:13" in skipped and "1 skipped" in total and "0 truncated" in total


def tune(monkeypatch, tmp_path, base, tok, rows: list[str], *flags) -> tuple[int, list[str]]:
    """Fine-tune for one step on rows: the exit status, and the sources that were learnt from."""
    save(tmp_path / "base", base, tok)
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    learnt, steps = [], fine_tune

    def recorder(model, tok, examples, *rest, **options):
        learnt.extend(example.source.rpartition(":")[2] for example in examples)
        return steps(model, tok, examples, *rest, **options)

    monkeypatch.setattr(fine_tuning, "fine_tune", recorder)
    arguments = ["--data", tmp_path / "rows.jsonl", "--base", tmp_path / "base", "--out", tmp_path / "out"]
    return call(monkeypatch, finetune, *arguments, "--steps", 1, *flags), learnt


ROW = json.dumps({"prompt": "Who?", "response": "Ada"})
LONG = json.dumps({"prompt": "Who? " * 400, "response": "Ada"})


@pytest.mark.parametrize("seed", range(10))
def test_a_row_that_does_not_fit_is_named_and_neither_held_out_nor_learnt(
    monkeypatch, capsys, tmp_path, base, tok, seed
):
    status, learnt = tune(monkeypatch, tmp_path, base, tok, [*[ROW] * 9, LONG], "--seed", seed, "--answers", 0)
    said = capsys.readouterr().out
    assert status == 0 and "10" not in learnt and len(learnt) == 8
    assert "1 row (" in said and "rows.jsonl:10): no response begins within 48 tokens" in said


def test_one_row_is_learnt_and_nothing_is_held_out(monkeypatch, capsys, tmp_path, base, tok):
    status, learnt = tune(monkeypatch, tmp_path, base, tok, [ROW])
    assert (status, learnt) == (0, ["1"]) and "1 demonstrations to learn from, 0 held out" in capsys.readouterr().out
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["asked"] == 0 and "val_loss" not in results["after"]


def test_a_base_text_of_another_tokenizer_is_refused_by_its_file(monkeypatch, capsys, tmp_path, base, tok):
    (tmp_path / "base").mkdir()
    for part in ("train", "val"):
        write_tokens(tmp_path / f"base/{part}.npy", [[tok.vocab_size]], tok.end_id, tok.vocab_size + 1)
    assert tune(monkeypatch, tmp_path, base, tok, [ROW])[0] == 2
    assert f"train.npy: ids from {tok.end_id} to {tok.vocab_size}: must be" in capsys.readouterr().err


def test_what_is_odd_about_rows_is_said_and_what_can_not_be_laid_out_is_skipped(
    monkeypatch, capsys, tmp_path, base, tok
):
    few = Tokenizer([bytes([byte]) for byte in range(256) if byte != 0xC3], [END], start=[])  # no é
    empty, odd = json.dumps({"prompt": "Who?", "response": ""}), json.dumps({"prompt": "\u00e9", "response": "Ada"})
    rows = [ROW, ROW, empty, json.dumps(json.loads(ROW) | {"images": ["a.png"]}), odd]
    wide = tiny(torch.float32, vocab_size=few.vocab_size, context_length=99)
    assert tune(monkeypatch, tmp_path, wide, few, rows)[0] == 2
    assert "rows.jsonl:5: the character" in capsys.readouterr().err
    assert (
        call(monkeypatch, show_sft, "--data", tmp_path / "rows.jsonl", "--model", tmp_path / "base", "--skip-bad") == 0
    )
    shown = capsys.readouterr().out
    assert "rows.jsonl:5: the character" in shown and "1 skipped" in shown
    status, learnt = tune(monkeypatch, tmp_path, wide, few, rows, "--skip-bad", "--answers", 0)
    said = capsys.readouterr().out
    assert status == 0 and "5" not in learnt and len(learnt) == 3
    assert "rows.jsonl:3): an empty response" in said and "not read: images (in 1 rows)" in said
    assert "1 rows are invalid and are skipped" in said and "rows.jsonl:5: the character" in said
