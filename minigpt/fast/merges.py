"""The same as tokenizer.learn_merges, faster; tests/test_tokenizer.py holds the two equal.

A merge changes only the counts of the pairs beside it. So pairs are counted once and their counts kept up to date, a
heap has the most frequent pair on top, and an index tells which words hold a pair.
"""

import heapq
from collections import defaultdict
from functools import lru_cache

Pair = tuple[bytes, bytes]
COMPLEMENT = bytes(255 - byte for byte in range(256))


def learn_merges(chunks: dict[bytes, int], count: int) -> list[bytes]:
    """The tokens made by up to `count` merges, in order; chunks says how often each chunk occurs."""
    # count every pair once, and note which words hold it
    words = [[bytes([byte]) for byte in chunk] for chunk in chunks]
    weights = list(chunks.values())
    counts: dict[Pair, int] = defaultdict(int)
    words_with: dict[Pair, set[int]] = defaultdict(set)
    for i, word in enumerate(words):
        for pair in zip(word, word[1:]):
            counts[pair] += weights[i]
            words_with[pair].add(i)
    heap = [heap_entry(pair, n) for pair, n in counts.items()]
    heapq.heapify(heap)

    learnt: list[bytes] = []
    while heap and len(learnt) < count:
        # take the most frequent pair
        negative, *_, pair = heapq.heappop(heap)
        if counts[pair] != -negative:
            continue  # its count has changed since; a newer entry is in the heap
        learnt.append(pair[0] + pair[1])

        # merge it in the words that hold it
        changed: dict[Pair, int] = defaultdict(int)
        for i in words_with.pop(pair):
            merge(words[i], pair, weights[i], changed, words_with, i)
        changed[pair] = negative  # it is nowhere now

        # keep the counts and the heap up to date
        for other, change in changed.items():
            counts[other] += change
            if change and counts[other]:
                heapq.heappush(heap, heap_entry(other, counts[other]))
    return learnt


def merge(word: list[bytes], pair: Pair, weight: int, changed: dict, words_with: dict, number: int) -> None:
    """Join the pair wherever it stands in word `number`, which occurs `weight` times; note what changes beside it."""
    first, second = pair
    token = first + second
    i = end = 0  # where the word is read, and where what it becomes is written: cutting it costs its length each time
    length = len(word)
    while i < length:
        if word[i] == first and i + 1 < length and word[i + 1] == second:
            word[end] = token
            i += 2

            # the neighbour on the left has another one now
            if end > 0:
                before = word[end - 1]
                changed[before, first] -= weight
                changed[before, token] += weight
                words_with[before, token].add(number)

            # and so has the neighbour on the right
            if i < length:
                after = word[i]
                changed[second, after] -= weight
                changed[token, after] += weight
                words_with[token, after].add(number)
        else:
            word[end] = word[i]
            i += 1
        end += 1
    del word[end:]


def heap_entry(pair: Pair, count: int) -> tuple:
    """What heapq pops first: the most frequent pair; of equals, the greatest byte strings."""
    return -count, reverse(pair[0]), reverse(pair[1]), pair


@lru_cache(maxsize=2**16)
def reverse(token: bytes) -> str:
    """A key that sorts greater byte strings first: each byte b counts as 255 - b, and an end as 256."""
    return token.translate(COMPLEMENT).decode("latin-1") + "\u0100"
