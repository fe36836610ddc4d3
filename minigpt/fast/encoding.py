"""The same as tokenizer.encode_ordinary, faster; tests/test_tokenizer.py holds the two equal.

tiktoken encodes. A text with a very long word or run of spaces, for which its split may give up and older versions
take quadratic time, is encoded here, each distinct chunk once.
"""

import heapq
import re
from collections import defaultdict
from functools import lru_cache

from ..tokenizer import SPLIT, Tokenizer, chunks_of

LONG = re.compile(r"(?<!\S)\S{10000}|(?<!\s)\s{10000}")


def encode_ordinary(tok: Tokenizer, text: str) -> list[int]:
    """Split a text into chunks; in each chunk, always merge the pair whose token was learnt first."""
    # by tiktoken
    if not LONG.search(text) and (ids := by_tiktoken(tok, text)) is not None:
        return ids

    # chunk by chunk
    known, ids = {}, []
    for chunk in chunks_of(text, tok.split):
        if chunk not in known:
            known[chunk] = [tok.ranks[chunk]] if chunk in tok.ranks else merge_all(chunk, tok.ranks)
        ids += known[chunk]
    return ids


def by_tiktoken(tok: Tokenizer, text: str) -> list[int] | None:
    """The ids, or None where tiktoken fails, or where another's split leaves text out."""
    try:
        ids = encoding(tok).encode_ordinary(text)
    except BaseException as problem:  # its panics are no Exceptions
        if isinstance(problem, ValueError) or type(problem).__name__ == "PanicException":
            return None
        raise
    whole = tok.split == SPLIT or sum(len(tok.tokens[i]) for i in ids) == len(text.encode())
    return ids if whole else None


@lru_cache(maxsize=8)
def encoding(tok: Tokenizer):
    """The vocabulary as a tiktoken.Encoding."""
    import tiktoken

    return tiktoken.Encoding("minigpt", pat_str=tok.split, mergeable_ranks=tok.ranks, special_tokens={})


def merge_all(chunk: bytes, ranks: dict[bytes, int]) -> list[int]:
    """The ids of one chunk, in a time that hardly grows faster than its length.

    A token stands at the place of its first byte. A heap has the ids that can be made, and `places` where they can.
    """
    size = len(chunk)
    part = [chunk[i : i + 1] for i in range(size)] + [b""]  # b"" at a place that belongs to a token on its left
    after = list(range(1, size + 2))
    before = list(range(-1, size))
    places: dict[int, list[int]] = defaultdict(list)
    for i in range(size - 1):
        if (made := ranks.get(chunk[i : i + 2])) is not None:
            places[made].append(i)
    heap = list(places)
    heapq.heapify(heap)

    while heap:
        rank = heapq.heappop(heap)
        waiting = sorted(places.pop(rank, ()))
        for n, i in enumerate(waiting):
            # is the pair still there?
            j = after[i]
            if not part[i] or j >= size or ranks.get(part[i] + part[j]) != rank:
                continue

            # merge it
            part[i] += part[j]
            part[j] = b""
            after[i] = after[j]
            before[after[i]] = i

            # the pairs that the new token makes with its neighbours
            earlier = False
            for left in (before[i], i):
                right = after[left] if left >= 0 else size
                if right < size and (made := ranks.get(part[left] + part[right])) is not None:
                    if made not in places:
                        heapq.heappush(heap, made)
                    places[made].append(left)
                    earlier |= made < rank
            if earlier:  # a foreign vocabulary: what was learnt before comes first
                places[rank] += waiting[n + 1 :]
                heapq.heappush(heap, rank)
                break
    return [ranks[token] for token in part if token]
