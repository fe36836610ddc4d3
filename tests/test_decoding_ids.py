"""Ids in every container, and models that have nothing but `forward`."""

import numpy as np
import pytest
import torch
from conftest import tiny
from hf_adapter import random_llama
from trees import RandomTree

import decoding
import minigpt
import sft
from decoding import ban, beam_search, generate, repetition_penalty, stream, uncached

pytestmark = pytest.mark.usefixtures("edition")
CONTAINERS = [list, tuple, np.array, torch.tensor, lambda ids: np.array(ids, dtype=np.uint16)]


@pytest.mark.parametrize("pack", CONTAINERS)
def test_a_row_of_ids_comes_in_any_container(pack):
    model = RandomTree(V=9, seed=0)
    settings = {"max_new_tokens": 8, "seed": 1, "repetition_penalty": 1.3}
    expected = generate(model, [[1, 2], [3, 4]], eos_id=[0, 5], banned_ids=[7], **settings)
    same = {"eos_id": pack([0, 5]), "banned_ids": pack([7])}
    assert generate(model, [pack([1, 2]), pack([3, 4])], **same, **settings) == expected
    assert generate(model, pack([[1, 2], [3, 4]]), **same, **settings) == expected  # several rows at once
    assert generate(model, [pack([1, 2]), pack([3, 4])], **same, **settings | {"seed": pack([1, 2])}) == expected
    assert list(stream(model, pack([1, 2]), **settings)) == list(stream(model, [1, 2], **settings))
    beam = {"width": 3, "max_new_tokens": 4}
    assert beam_search(model, pack([1, 2]), eos_id=pack([0, 5]), **beam) == beam_search(
        model, [1, 2], eos_id=[0, 5], **beam
    )
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ban(x, pack([1, 3])), ban(x, [1, 3]))
    assert torch.equal(repetition_penalty(x, pack([1, 3]), 2.0), repetition_penalty(x, [1, 3], 2.0))
    two = torch.stack([x, -x])  # one history per row
    assert torch.equal(repetition_penalty(two, pack([[1, 3], [2, 2]]), 2.0)[1], repetition_penalty(-x, [2], 2.0))


def test_one_row_is_not_taken_for_several():
    with pytest.raises(ValueError, match=r"row 0 .*1.*list"):
        generate(RandomTree(V=5, seed=0), torch.tensor([1, 2]), max_new_tokens=1)


@pytest.mark.parametrize("wrong", [None, 5, torch.tensor(5), np.int64(5)])
def test_what_has_no_rows_is_refused(wrong):
    with pytest.raises(ValueError, match=r"prompt is .*expected several rows of ids"):
        generate(RandomTree(V=5, seed=0), wrong, max_new_tokens=1)


@pytest.mark.parametrize(
    "wrong",
    [{"prompts": [[True, 1]]}, {"eos_id": True}, {"banned_ids": [False]}, {"seed": True}, {"seed": [True]}],
    ids=str,
)
def test_a_truth_value_is_no_id_and_no_seed(wrong):
    given = {"prompts": [[1]], "max_new_tokens": 1} | wrong
    with pytest.raises(ValueError, match=r"(True|False); expected"):
        generate(RandomTree(V=5, seed=0), given.pop("prompts"), **given)


class OnlyForward(torch.nn.Module):
    """A model of others: no protocol, no window, no vocabulary."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.dropout = torch.nn.Dropout(0.9)

    def forward(self, ids):
        return self.dropout(self.model(ids))


def test_a_model_with_forward_only_decodes_as_with_its_cache_and_keeps_its_mode():
    model = tiny()
    bare = OnlyForward(model).train()
    model.eval()  # inner and outer differ, and stay so
    expected = generate(model, [[1, 2], [3]], max_new_tokens=5, top_p=0.9, seed=0)
    found = generate(uncached(bare), [[1, 2], [3]], max_new_tokens=5, top_p=0.9, seed=0)
    assert [one.ids for one in found] == [one.ids for one in expected]
    assert bare.training and bare.dropout.training and not model.training
    full = generate(uncached(bare, context_length=4), [[1, 2]], max_new_tokens=9, seed=0)
    assert (len(full[0].ids), full[0].stop) == (2, "context")


def test_a_model_with_forward_only_is_told_of_its_bridge():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 5))
    settings = dict(max_new_tokens=2, seed=0)
    for decode in (
        lambda: generate(model, [[1]], **settings),
        lambda: list(stream(model, [1], **settings)),
        lambda: beam_search(model, [1], width=2, max_new_tokens=2),
    ):
        with pytest.raises(ValueError, match=r"model is 'Sequential'; expected .*decoding\.uncached"):
            decode()
    assert len(generate(uncached(model), [[1]], **settings)[0].ids) == 2


def test_a_function_is_a_model_too():
    counts = uncached(lambda ids: torch.nn.functional.one_hot((ids + 1) % 5, 5).double())
    assert generate(counts, [[0]], max_new_tokens=3, temperature=0)[0].ids == [1, 2, 3]


def test_a_transformers_model_tells_its_window_and_vocabulary():
    model = uncached(random_llama(V=23))
    assert (model.context_length, model.vocab_size) == (64, 23)
    with pytest.raises(ValueError, match=r"row 0 is 23.*0 to 22"):
        generate(model, [[23]], max_new_tokens=1)


def test_importing_all_names_of_the_packages_hides_none_of_another():
    packages = [minigpt, decoding, sft]
    names = [name for package in packages for name in package.__all__]
    assert len(set(names)) == len(names) and "Path" not in names
    assert all(hasattr(package, name) for package in packages for name in package.__all__)
