"""What the tests share: repeatable examples, one thread, a small tokenizer, small models with weights that matter."""

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from hypothesis import HealthCheck, settings

from minigpt import GPT, GPTConfig, Tokenizer
from plain_or_fast import plain

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests with & has Ctrl-C ignored
settings.register_profile(
    "course",
    deadline=None,
    derandomize=True,  # the same examples in every run, so that a red test stays red
    database=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
settings.load_profile("course")

TEXTS = [
    "Ada lives in Oslo. Where does Ada live? Ada lives in Oslo!",
    "the lowest of the low, the newer of the new; they're the best, aren't they?",
    "naïve café, Ελλάδα, 你好, 12,345.67 🙂👩‍🚀\n\n\tdef f(x):\n        return x  ",
]


def every(**choices: list) -> list[dict]:
    """All combinations of the choices."""
    return [dict(zip(choices, values)) for values in itertools.product(*choices.values())]


SWITCHES = every(
    norm=["rmsnorm", "layernorm"],
    position=["rope", "learned"],
    mlp=["swiglu", "gelu"],
    bias=[False, True],
    tie_embeddings=[True, False],
    n_kv_heads=[4, 2, 1],
)


def tiny(dtype: torch.dtype = torch.float64, seed: int = 0, **changes) -> GPT:
    """A small model in evaluation mode whose weights are large enough that every token, position and bias tells."""
    preset = dict(vocab_size=29, context_length=16, n_layers=2, n_heads=4, d_model=16, d_ff=24)
    model = GPT(GPTConfig(**preset | changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return model.to(dtype).eval()


@pytest.fixture(params=SWITCHES, ids=lambda switches: "-".join(map(str, switches.values())))
def switches(request) -> dict:
    """Each combination of the model's switches in turn."""
    return request.param


@pytest.fixture(params=["plain", "fast"])
def edition(request) -> Iterator[str]:
    """A test, or a module with pytestmark = pytest.mark.usefixtures("edition"), runs in both editions."""
    with plain() if request.param == "plain" else nullcontext():
        yield request.param


once = pytest.mark.parametrize("edition", ["fast"], indirect=True)  # a test that needs no second run in plain mode


@pytest.fixture(scope="session")
def tok() -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab_size=320)
