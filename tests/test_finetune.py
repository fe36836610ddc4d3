"""Fine-tuning is pretraining on other data: the one loop, and a model that answers at the end."""

import pytest
import torch
from conftest import tiny

import sft.finetune
from decoding import generate
from minigpt import IGNORE, Batch, TrainConfig, TrainState, train
from minigpt.tokenizer import END
from sft import Example, Message, encode_conversation, encode_examples, example_batches, fine_tune

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
    # nanochat 570: the mask lost in a refactor of a second loop; here there is no second loop
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
    assert isinstance(batches(0), Batch) and len(batches(0).inputs) == 2
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
    # trl 1623: where the end token is not learnt, an answer never ends
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
    # transformers PR 34191: accumulation that averages averages
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


def test_examples_that_do_not_fit_are_refused_before_anything_is_learnt(base, tok):
    with pytest.raises(ValueError, match="nothing would be learnt"):
        next(fine_tune(base, tok, [example("Where? " * 60, "Oslo")], plan()))
