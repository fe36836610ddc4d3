"""Text <-> token ids: byte-pair encoding, trained by hand (P1).

Training starts from the 256 bytes and merges the most frequent neighbouring pair again and again; each merge is one
new token. Encoding merges a text's bytes in the order in which the merges were learnt. Gage 1994; Sennrich et al.
2016, arXiv:1508.07909; on bytes: Radford et al. 2019.
"""

import base64
import codecs
import hashlib
import heapq
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

# regex and tiktoken are imported where they are used: what only loads a model's weights starts without them.

# GPT-2's split: merges stay inside such a chunk: a contraction's end, or letters, digits or signs with the space before
# them, or a run of spaces.
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
END, PROMPT, RESPONSE = SPECIAL_TOKENS = ("<|endoftext|>", "<|prompt|>", "<|response|>")


class Tokenizer:
    """A byte-level BPE vocabulary: `tokens[id]` are the bytes of an ordinary id, `special` maps names to special ids.

    Make one with `Tokenizer.train` or `Tokenizer.gpt2`; `load` reads one from a model directory. Special ids follow the
    ordinary ones. The rest is for vocabularies that others made: special tokens as a dict (tokens[id] is b"" at their
    ids), split, the chunks that no merge leaves; end, the special token that ends a text; start, the ids before a
    document's first (ours have the end token there); chat_template, their maker's layout of a conversation.

    >>> tok = Tokenizer.train(["low lower lowest"], vocab_size=262)
    >>> tok.encode("lower"), tok.decode(tok.encode("lower"))
    ([258, 114], 'lower')
    """

    def __init__(
        self,
        tokens: list[bytes],
        special_tokens: Iterable[str] | dict[str, int] = SPECIAL_TOKENS,
        *,
        split: str = SPLIT,
        end: str = END,
        start: Iterable[int] | None = None,
        chat_template: str | None = None,
    ):
        if not isinstance(special_tokens, dict):
            special_tokens = {name: len(tokens) + i for i, name in enumerate(special_tokens)}
        self.tokens, self.special, self.split = tokens, special_tokens, split
        self.end, self.chat_template = end, chat_template
        self.start = [special_tokens[name] for name in [end] if name in special_tokens] if start is None else [*start]
        self.vocab_size = max([len(tokens), *(i + 1 for i in special_tokens.values())])

    @property
    def end_id(self) -> int:
        """The id that ends a text. ValueError when the vocabulary has none."""
        if self.end not in self.special:
            raise ValueError(f"end={self.end!r}: must be one of the special tokens {', '.join(self.special)}")
        return self.special[self.end]

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, special_tokens: Iterable[str] = SPECIAL_TOKENS
    ) -> "Tokenizer":
        """Learn a vocabulary of at most vocab_size ids, special tokens included, from texts.

        It ends up smaller when every chunk of the texts has become one token. Ties between pairs go to the
        lexicographically greater pair of byte strings. ValueError when vocab_size leaves no room for the 256 bytes.
        """
        special_tokens = list(special_tokens)
        smallest = 256 + len(special_tokens)
        if vocab_size < smallest:
            raise ValueError(f"vocab_size={vocab_size}: must be at least {smallest}, the 256 bytes and special tokens")
        import regex

        chunks: Counter = Counter()
        for text in texts:
            chunks.update(regex.findall(SPLIT, text))
        tokens = [bytes([byte]) for byte in range(256)]
        tokens += learn_merges({chunk.encode(): count for chunk, count in chunks.items()}, vocab_size - smallest)
        return cls(tokens, special_tokens)

    @classmethod
    def gpt2(cls) -> "Tokenizer":
        """GPT-2's own vocabulary of 50,257 ids, through tiktoken, which downloads it once.

        Without a network: MINIGPT_GPT2_RANKS names a copy of the rank file, a line "token in base64, rank" each.
        OSError when there is neither, ValueError when the copy is another file.
        """
        if path := os.getenv("MINIGPT_GPT2_RANKS"):
            content = Path(path).read_bytes()
            if (found := hashlib.sha256(content).hexdigest()) != GPT2_SHA256:
                raise ValueError(f"{path}: not GPT-2's rank file: its SHA-256 is {found}, must be {GPT2_SHA256}")
            tokens = [base64.b64decode(line.split()[0]) for line in content.splitlines()]
        else:
            import tiktoken

            try:
                encoding = tiktoken.get_encoding("gpt2")
            except OSError as problem:
                hint = "bring gpt2.tiktoken along (openai-whisper has one) and set MINIGPT_GPT2_RANKS=path/to/it"
                raise OSError(f"GPT-2's vocabulary can't be downloaded here; {hint}") from problem
            tokens = [encoding.decode_single_token_bytes(i) for i in range(encoding.n_vocab - 1)]
        return cls(tokens, [END], start=[])

    @cached_property
    def encoding(self):
        """The same vocabulary as a tiktoken.Encoding, which encodes quickly; `encode_by_hand` shows what it does."""
        import tiktoken

        return tiktoken.Encoding("minigpt", pat_str=self.split, mergeable_ranks=self.ranks, special_tokens=self.special)

    @cached_property
    def ranks(self) -> dict[bytes, int]:
        return {token: i for i, token in enumerate(self.tokens) if token}

    @cached_property
    def _missing(self) -> frozenset[int]:
        """The bytes that no token stands for: none in our own vocabularies, 21 rare ones in SmolLM2's."""
        return frozenset(byte for byte in range(256) if bytes([byte]) not in self.ranks)

    def encode(self, text: str) -> list[int]:
        """Text to ids; never a special id: special strings in a text are plain text, so users can't forge turns.

        ValueError for a character that the vocabulary has no token for; where the 256 bytes are tokens there is none.
        """
        if self._missing and not self._missing.isdisjoint(text.encode(errors="replace")):
            char = next(char for char in text if not self._missing.isdisjoint(char.encode(errors="replace")))
            raise ValueError(f"the character {char!r} has no token in this vocabulary: leave it out")
        return self.encoding.encode_ordinary(text)

    def encode_by_hand(self, text: str) -> list[int]:
        """What `encode` computes: in each chunk, always merge the pair that makes the earliest learnt token.

        >>> tok = Tokenizer.train(["low lower lowest"], vocab_size=262)
        >>> tok.encode_by_hand("lower") == tok.encode("lower")
        True
        """
        import regex

        ids = []
        for chunk in regex.findall(self.split, text):
            parts = [bytes([byte]) for byte in chunk.encode()]
            while True:
                ranked = [(self.ranks.get(a + b), i) for i, (a, b) in enumerate(zip(parts, parts[1:]))]
                mergeable = [(rank, i) for rank, i in ranked if rank is not None]
                if not mergeable:
                    break
                _, i = min(mergeable)  # of equal ranks, the leftmost
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            ids += [self.ranks[part] for part in parts]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; bytes that are no valid UTF-8 become U+FFFD. ValueError for an id outside of the vocabulary."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The pieces of `decode(ids)`, each as soon as it is certain: a character split over tokens comes out whole."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for i in ids:
            if piece := decoder.decode(self.token_bytes(i)):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest

    def token_bytes(self, i: int) -> bytes:
        """The bytes of one id, an ordinary or a special one."""
        if i in self.special_names:
            return self.special_names[i].encode()
        if 0 <= i < len(self.tokens):
            return self.tokens[i]
        raise ValueError(f"token id {i}: must be from 0 to {self.vocab_size - 1}")

    @cached_property
    def special_names(self) -> dict[int, str]:
        return {i: name for name, i in self.special.items()}


def learn_merges(chunks: dict[bytes, int], count: int) -> list[bytes]:
    """The tokens of up to `count` merges over chunks, given with how often each occurs.

    Pair counts are kept up to date: a merge changes only those of the pairs beside it.

    >>> learn_merges({b"low": 3, b"lot": 2}, count=2)
    [b'lo', b'low']
    """
    words = [[bytes([byte]) for byte in chunk] for chunk in chunks]
    weights = list(chunks.values())
    pair_counts: dict = defaultdict(int)
    words_with = defaultdict(set)  # pair -> the words that hold it (or once did)
    for i, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pair_counts[pair] += weights[i]
            words_with[pair].add(i)
    heap = [(-n, _descending(pair), pair) for pair, n in pair_counts.items()]
    heapq.heapify(heap)
    learnt: dict[bytes, None] = {}
    while heap and len(learnt) < count:
        negative, _, pair = heapq.heappop(heap)
        if pair_counts[pair] != -negative or negative == 0:
            continue  # its count has changed since; a newer entry is in the heap
        first, second = pair
        token = first + second
        learnt[token] = None  # subtle: two different pairs may make the same token, which is learnt once
        changed: dict = defaultdict(int)
        for i in words_with.pop(pair):
            word, weight, at = words[i], weights[i], 0
            while at < len(word) - 1:
                if word[at] == first and word[at + 1] == second:
                    changed[pair] -= weight
                    if at > 0:
                        before = word[at - 1]
                        changed[before, first] -= weight
                        changed[before, token] += weight
                        words_with[before, token].add(i)
                    if at + 2 < len(word):
                        after = word[at + 2]
                        changed[second, after] -= weight
                        changed[token, after] += weight
                        words_with[token, after].add(i)
                    word[at : at + 2] = [token]
                at += 1
        for other, change in changed.items():
            if change:
                pair_counts[other] += change
                heapq.heappush(heap, (-pair_counts[other], _descending(other), other))
    return list(learnt)


def _descending(pair: tuple[bytes, bytes]) -> tuple[str, str]:
    """A sort key that puts the greater byte strings first, as heapq pops the least: each byte b counts as 255 - b."""
    return tuple(part.translate(_COMPLEMENT).decode("latin-1") + "\u0100" for part in pair)


_COMPLEMENT = bytes(255 - byte for byte in range(256))
