"""Text <-> token ids: byte-pair encoding, trained by hand (P1).

Training starts from the 256 bytes and merges the most frequent pair of neighbours, again and again. Each merge makes
one new token. Encoding repeats the merges on another text, in the order in which they were learnt.
Gage 1994; Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019.
"""

import base64
import codecs
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from plain_or_fast import has_twin

# regex and tiktoken are imported where they are used, so that loading a model's weights needs neither.

# GPT-2's split of a text into chunks. No merge crosses their borders. A chunk is the end of a contraction, or letters,
# digits or signs with the space before them, or a run of spaces.
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
END, PROMPT, RESPONSE = SPECIAL_TOKENS = ("<|endoftext|>", "<|prompt|>", "<|response|>")


@has_twin("minigpt.fast.merges")
def learn_merges(chunks: dict[bytes, int], count: int) -> list[bytes]:
    """The tokens made by up to `count` merges, in order; chunks says how often each chunk occurs.

    >>> learn_merges({b"low": 3, b"lot": 2}, count=2)
    [b'lo', b'low']
    """
    words = {chunk: [bytes([byte]) for byte in chunk] for chunk in chunks}
    learnt = []
    while len(learnt) < count:
        # count every pair of neighbours
        pairs = Counter()
        for chunk, word in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += chunks[chunk]
        if not pairs:
            break  # each chunk has become one token

        # take the most frequent one; of equals, the greater pair of byte strings
        best = max(pairs, key=lambda pair: (pairs[pair], pair))

        # merge it everywhere
        for word in words.values():
            merge(word, best)
        learnt.append(best[0] + best[1])
    return learnt


def merge(word: list[bytes], pair: tuple[bytes, bytes]) -> None:
    """Join the pair wherever it stands in the word, from left to right.

    >>> word = [b"a", b"a", b"a", b"b"]
    >>> merge(word, (b"a", b"a"))
    >>> word
    [b'aa', b'a', b'b']
    """
    i = 0
    while i < len(word) - 1:
        if (word[i], word[i + 1]) == pair:
            word[i : i + 2] = [word[i] + word[i + 1]]
        i += 1


class Tokenizer:
    """A byte-level BPE vocabulary: `tokens[id]` are the bytes of an ordinary id, `special` maps names to special ids.

    Make one with `Tokenizer.train` or `Tokenizer.gpt2`; `load` reads one from a model directory. Special ids follow the
    ordinary ones. The other arguments are for vocabularies made by others: special_tokens as a dict (tokens[id] is b""
    at their ids); split, the pattern of a chunk; end, the special token that ends a text; start, the ids before a
    document's first token (ours is the end token); end_ids, more ids that end an answer; chat_template, the layout of a
    conversation; names, the special tokens that it calls bos_token, pad_token and so on.

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
        end_ids: Iterable[int] = (),
        chat_template: str | None = None,
        names: dict[str, str] | None = None,
    ):
        if not isinstance(special_tokens, dict):
            special_tokens = {name: len(tokens) + i for i, name in enumerate(special_tokens)}
        if start is None:
            start = [special_tokens[end]] if end in special_tokens else []

        self.tokens = tokens
        self.special = special_tokens
        self.split = split
        self.end = end
        self.start = list(start)
        self.end_ids = tuple(dict.fromkeys([*([special_tokens[end]] if end in special_tokens else []), *end_ids]))
        self.chat_template = chat_template
        self.names = names or {}
        self.vocab_size = max([len(tokens), *(i + 1 for i in special_tokens.values())])

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, special_tokens: Iterable[str] = SPECIAL_TOKENS
    ) -> "Tokenizer":
        """Learn a vocabulary of at most vocab_size ids, special tokens included, from texts.

        It is smaller when every chunk of the texts has become one token. Ties between pairs go to the
        lexicographically greater pair of byte strings. ValueError when vocab_size leaves no room for the 256 bytes.
        """
        import regex

        special_tokens = list(special_tokens)
        smallest = 256 + len(special_tokens)
        if vocab_size < smallest:
            raise ValueError(f"vocab_size={vocab_size}: must be at least {smallest}, the 256 bytes and special tokens")

        # how often each chunk occurs: merges look at each distinct chunk once
        chunks = Counter()
        for text in texts:
            chunks.update(regex.findall(SPLIT, text))
        chunks = {chunk.encode(): count for chunk, count in chunks.items()}

        single_bytes = [bytes([byte]) for byte in range(256)]
        return cls(single_bytes + learn_merges(chunks, vocab_size - smallest), special_tokens)

    def encode_by_hand(self, text: str) -> list[int]:
        """What `encode` computes: in each chunk, always merge the pair whose token was learnt first.

        >>> tok = Tokenizer.train(["low lower lowest"], vocab_size=262)
        >>> tok.encode_by_hand("lower") == tok.encode("lower")
        True
        """
        import regex

        ids = []
        for chunk in regex.findall(self.split, text):
            parts = [bytes([byte]) for byte in chunk.encode()]
            while len(parts) > 1:
                # which token would each pair of neighbours make?
                made = [self.ranks.get(a + b, math.inf) for a, b in zip(parts, parts[1:])]
                first = min(made)
                if first == math.inf:
                    break  # none

                # merge the one learnt first; of equals, the leftmost
                i = made.index(first)
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            ids += [self.ranks[part] for part in parts]
        return ids

    def encode(self, text: str) -> list[int]:
        """Text to ids; never a special id: special strings in a text are plain text, so users can't forge turns.

        ValueError for a character that the vocabulary has no token for; never when the 256 bytes are tokens.
        """
        if self._missing and not self._missing.isdisjoint(text.encode(errors="replace")):
            char = next(char for char in text if not self._missing.isdisjoint(char.encode(errors="replace")))
            raise ValueError(f"the character {char!r} has no token in this vocabulary: leave it out")
        return self.encoding.encode_ordinary(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; invalid UTF-8 becomes U+FFFD. ValueError for an id outside of the vocabulary."""
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
        """The bytes of one id, an ordinary or a special one. ValueError for an id outside of the vocabulary."""
        if i in self.special_names:
            return self.special_names[i].encode()
        if 0 <= i < len(self.tokens):
            return self.tokens[i]
        raise ValueError(f"token id {i}: must be from 0 to {self.vocab_size - 1}")

    @property
    def end_id(self) -> int:
        """The id that ends a text. ValueError when the vocabulary has none."""
        if self.end not in self.special:
            raise ValueError(f"end={self.end!r}: must be one of the special tokens {', '.join(self.special)}")
        return self.special[self.end]

    @cached_property
    def ranks(self) -> dict[bytes, int]:
        """The id of each ordinary token, which is also the order in which tokens were learnt."""
        return {token: i for i, token in enumerate(self.tokens) if token}

    @cached_property
    def special_names(self) -> dict[int, str]:
        return {i: name for name, i in self.special.items()}

    @cached_property
    def encoding(self):
        """The same vocabulary as a tiktoken.Encoding, which encodes fast; `encode_by_hand` shows what it does."""
        import tiktoken

        return tiktoken.Encoding("minigpt", pat_str=self.split, mergeable_ranks=self.ranks, special_tokens=self.special)

    @cached_property
    def _missing(self) -> frozenset[int]:
        """The bytes that are not tokens: none in our own vocabularies, 21 rare ones in SmolLM2's."""
        return frozenset(byte for byte in range(256) if bytes([byte]) not in self.ranks)

    @classmethod
    def gpt2(cls) -> "Tokenizer":
        """GPT-2's own vocabulary of 50,257 ids, through tiktoken, which downloads it once.

        Without a network: MINIGPT_GPT2_RANKS names a copy of the rank file, with "token in base64, rank" per line.
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
