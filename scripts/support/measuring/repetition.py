"""How much a text repeats itself: the loops of greedy decoding, as a figure (G4)."""


def repetition(ids: list[int], n: int = 4) -> float:
    """The share of n-grams that occurred before in the same text: near 1 for a loop, 0 where nothing repeats.

    >>> repetition([1, 2, 3, 4, 1, 2, 3, 4])             # one of five
    0.19999999999999996
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def repeats(ids: list[int], n: int = 4) -> list[bool]:
    """Which tokens are part of an n-gram that occurred before in the same text.

    >>> repeats([1, 2, 3, 1, 2], n=2)
    [False, False, False, True, True]
    """
    seen, marks = set(), [False] * len(ids)
    for i in range(len(ids) - n + 1):
        gram = tuple(ids[i : i + n])
        if gram in seen:
            marks[i : i + n] = [True] * n
        seen.add(gram)
    return marks


def distinct2(ids: list[int]) -> float:
    """The number of different pairs of neighbours per pair (Li et al. 2016, arXiv:1510.03055).

    >>> distinct2([1, 2, 1, 2])
    0.6666666666666666
    """
    pairs = list(zip(ids, ids[1:]))
    return len(set(pairs)) / len(pairs) if pairs else 1.0
