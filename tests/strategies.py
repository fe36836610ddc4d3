"""What the property tests draw from: logits with everything that breaks a sampler, and settings next to every edge."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from trees import RandomTree

few = settings(max_examples=40)
quick = settings(max_examples=100)
more = settings(max_examples=400)

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
VOCABULARIES = (2, 3, 4, 5, 8, 17, 63, 64, 65, 66, 129, 1000, 50_257)
OUT = -torch.inf
EDGES = [0.0, -0.0, 1.0, -1.0, 1e-8, -1e-8, 0.5, 1e4, -1e4, 6e4, -6e4, 1e30, -1e30, 3e38, -3e38, OUT, OUT]


def _dyadic(V: int, generator: torch.Generator) -> torch.Tensor:
    """Probabilities that are powers of two, sum to exactly 1 and have many equals: the edges of every rule are met."""
    parts = [1.0]
    while len(parts) < min(V, 100):
        i = int(torch.randint(len(parts), (), generator=generator))
        parts[i] /= 2
        parts.append(parts[i])
    probabilities = torch.zeros(V, dtype=torch.float64)
    probabilities[torch.randperm(V, generator=generator)[: len(parts)]] = torch.tensor(parts, dtype=torch.float64)
    return probabilities.log()


def _row(V: int, kind: str, generator: torch.Generator) -> torch.Tensor:
    normal = torch.randn(V, generator=generator, dtype=torch.float64)
    if kind == "edges":
        return torch.tensor(EDGES, dtype=torch.float64)[torch.randint(len(EDGES), (V,), generator=generator)]
    if kind == "dyadic":
        return _dyadic(V, generator)
    if kind == "ties":
        return torch.randint(-2, 3, (V,), generator=generator).double()
    if kind == "flat":
        return torch.full((V,), 0.7, dtype=torch.float64)
    return normal * {"nearly flat": 1e-3, "text": 3.0, "sharp": 100.0, "extreme": 1e30}[kind]


@st.composite
def logits(draw, dtypes=FLOATS, most=50_257, rows=((), (1,), (3,), (2, 2)), kinds=None):
    """(..., V) logits: ties, equal rows, -inf entries, tiny and huge scales, exact powers of two, in any precision."""
    V = draw(st.sampled_from(VOCABULARIES[: VOCABULARIES.index(most) + 1]))
    shape = draw(st.sampled_from(rows if V <= 1000 else [min(rows, key=lambda row: torch.Size(row).numel())]))
    dtype = draw(st.sampled_from(dtypes))
    all_kinds = ("edges", "dyadic", "ties", "flat", "nearly flat", "text", "sharp", "extreme")
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    made = []
    for _ in range(torch.Size(shape).numel()):
        row = _row(V, draw(st.sampled_from(kinds or all_kinds)), generator)
        if draw(st.booleans()):
            row[torch.rand(V, generator=generator) < draw(st.sampled_from([0.1, 0.5, 0.99]))] = OUT
        if row.max() == OUT:  # a row needs a token that is not out
            row[int(torch.randint(V, (), generator=generator))] = 0.0
        made.append(row)
    bounds = torch.finfo(dtype)
    whole = torch.stack(made).view(*shape, V)
    return whole.clamp(bounds.min, bounds.max).masked_fill(whole == OUT, OUT).to(dtype)


probabilities = st.one_of(
    st.floats(0, 1),
    st.integers(0, 64).map(lambda n: n / 64),
    st.sampled_from([0.0, 1.0, 5e-324, 1e-12, 1e-6, 2e-6, 1e-3, 0.1, 0.9, 0.92, 0.95, 1 - 1e-6, 1 - 1e-9, 1 - 2**-53]),
)
temperatures = st.one_of(
    st.floats(0.05, 20),
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.sampled_from([5e-324, 1e-45, 1e-38, 1e-20, 1e-3, 0.5, 1.0, 2.0, 1e3, 1e38, 1e308, float("inf")]),
)
penalties = st.one_of(st.floats(1, 5), st.sampled_from([1.0, 1.3, 2.0, 1e10, 1e308]))


@st.composite
def random_trees(draw, most=7, windows=(None,)):
    """Models whose next logits depend on the whole text, with and without equal ones."""
    return RandomTree(
        V=draw(st.integers(2, most)),
        seed=draw(st.integers(0, 10**6)),
        levels=draw(st.sampled_from([None, None, 2, 4])),
        context_length=draw(st.sampled_from(windows)),
    )


def prompts(model: RandomTree, longest: int = 6):
    """Several prompts of unequal length."""
    prompt = st.lists(st.integers(0, model.vocab_size - 1), min_size=1, max_size=longest)
    return st.lists(prompt, min_size=1, max_size=4)


@st.composite
def filter_settings(draw, V: int):
    """Any mixture of generate's filters, each of them off now and then."""
    return {
        "temperature": draw(st.sampled_from([0, 0.3, 0.7, 1.0, 1.0, 2.5])),
        "top_k": draw(st.sampled_from([None, None, 1, 2, 3, V, V + 1])),
        "top_p": draw(st.one_of(st.none(), probabilities)),
        "min_p": draw(st.sampled_from([None, None, 0.0, 0.05, 0.3, 1.0])),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.0, 1.3, 5.0])),
        "no_repeat_ngram": draw(st.sampled_from([None, None, 1, 2, 3])),
        "banned_ids": draw(st.lists(st.integers(0, V - 1), max_size=2)),
    }
