"""Models without a transformer: the lecture's hand-drawn probability trees, and random ones, for the decoders to walk.

They fit the decoders' protocol strictly: a state may be used once, so a decoder that keeps an old one is found out.
"""

import torch
from torch import Tensor


class State:
    """The ids read so far, one list a row. Reading them a second time is an error."""

    def __init__(self, histories: list[list[int]]):
        self.histories = histories

    def take(self) -> list[list[int]]:
        assert self.histories is not None, "a state was used twice"
        histories, self.histories = self.histories, None
        return histories


class HistoryModel:
    """A model whose logits are any function of the whole text so far: subclasses say which, in `next_logits`."""

    context_length: int | None = None
    dtype = torch.float64

    def __init__(self):
        self.rows_read = []  # how many rows each call had: the work a decoder asked for

    def next_logits(self, history: list[int]) -> Tensor:
        raise NotImplementedError

    def _read(self, histories: list[list[int]]) -> tuple[Tensor, State]:
        if self.context_length is not None:
            assert max(map(len, histories)) <= self.context_length, "more tokens than the window holds"
        self.rows_read.append(len(histories))
        logits = torch.stack([self.next_logits(history) for history in histories])
        return logits.to(self.dtype), State(histories)

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, State]:
        return self._read([list(prompt) for prompt in prompts])

    def step(self, state: State, ids: Tensor) -> tuple[Tensor, State]:
        return self._read([[*history, id] for history, id in zip(state.take(), ids.tolist(), strict=True)])

    def reorder(self, state: State, rows: Tensor) -> State:
        histories = state.take()
        return State([list(histories[row]) for row in rows.tolist()])


class Tree(HistoryModel):
    """A tree as a slide draws it: {"how": {"are": .31, …}, "how are": {"you": .91, …}}.

    What the tree doesn't tell is followed by "." for certain.

    >>> tree = Tree({"how": {"are": .6, "do": .4}})
    >>> tree.text(tree.ids("how do"))
    'how do'
    """

    def __init__(self, tree: dict[str, dict[str, float]]):
        super().__init__()
        self.tree = tree
        self.words = ["."]
        for text, children in tree.items():
            self.words += [word for word in [*text.split(), *children] if word not in self.words]

    def ids(self, text: str) -> list[int]:
        return [self.words.index(word) for word in text.split()]

    def text(self, ids: list[int]) -> str:
        return " ".join(self.words[id] for id in ids)

    def next_logits(self, history: list[int]) -> Tensor:
        children = self.tree.get(self.text(history), {".": 1.0})
        probabilities = torch.zeros(len(self.words), dtype=torch.float64)
        for word, probability in children.items():
            probabilities[self.words.index(word)] = probability
        return probabilities.log()


class RandomTree(HistoryModel):
    """Random logits that depend on every token of the text and on its order, so that a mixed-up state shows.

    levels: None draws logits from a normal distribution; a number draws them from this many values, with many ties.
    """

    def __init__(self, V: int, seed: int, scale: float = 2.0, levels: int | None = None, context_length=None):
        super().__init__()
        self.vocab_size, self.seed, self.scale, self.levels = V, seed, scale, levels
        self.context_length = context_length

    def __repr__(self) -> str:
        probabilities = [round(p, 3) for p in self.next_logits([0]).softmax(-1).tolist()]
        return f"RandomTree({self.vocab_size}, seed={self.seed}, levels={self.levels}: after 0 {probabilities})"

    def next_logits(self, history: list[int]) -> Tensor:
        # hash of a tuple of ints is the same in every process
        generator = torch.Generator().manual_seed(hash((self.seed, *history)) % 2**63)
        if self.levels is not None:
            return self.scale * torch.randint(self.levels, (self.vocab_size,), generator=generator).double()
        return self.scale * torch.randn(self.vocab_size, generator=generator, dtype=torch.float64)


class Bigram:
    """Logits that depend on the last token only, as one table (V, V): quick for many rows at once."""

    context_length = None

    def __init__(self, table: Tensor):
        self.table = table

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, None]:
        return self.table[[prompt[-1] for prompt in prompts]], None

    def step(self, state: None, ids: Tensor) -> tuple[Tensor, None]:
        return self.table[ids], None

    def reorder(self, state: None, rows: Tensor) -> None:
        return None
