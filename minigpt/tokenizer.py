"""Text <-> token ids: byte-pair encoding, trained by hand (P1).

Training starts from the 256 bytes and merges the most frequent neighbouring pair again and again; each merge is one
new token. Encoding merges a text's bytes in the order in which the merges were learnt. Gage 1994; Sennrich et al.
2016, arXiv:1508.07909; on bytes: Radford et al. 2019.
"""

import codecs
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property

import regex
import tiktoken

# GPT-2's split: merges stay inside such a chunk: a contraction's end, or letters, digits or signs with the space before
# them, or a run of spaces.
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
END, PROMPT, RESPONSE = SPECIAL_TOKENS = ("<|endoftext|>", "<|prompt|>", "<|response|>")


class Tokenizer:
    """A byte-level BPE vocabulary: `tokens[id]` are the bytes of an ordinary id; the special ids follow after them.

    Make one with `Tokenizer.train`, `Tokenizer.gpt2` or `Tokenizer.from_json`.

    >>> tok = Tokenizer.train(["low lower lowest"], vocab_size=262)
    >>> tok.encode("lower"), tok.decode(tok.encode("lower"))
    ([258, 114], 'lower')
    """

    def __init__(self, tokens: list[bytes], special_tokens: Iterable[str] = SPECIAL_TOKENS):
        self.tokens = tokens
        self.special = {name: len(tokens) + i for i, name in enumerate(special_tokens)}
        self.vocab_size = len(tokens) + len(self.special)

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
        chunks = Counter(chunk for text in texts for chunk in regex.findall(SPLIT, text))
        tokens = [bytes([byte]) for byte in range(256)]
        tokens += learn_merges({chunk.encode(): count for chunk, count in chunks.items()}, vocab_size - smallest)
        return cls(tokens, special_tokens)

    @classmethod
    def gpt2(cls) -> "Tokenizer":
        """GPT-2's own vocabulary of 50,257 ids, through tiktoken, which downloads it once."""
        encoding = tiktoken.get_encoding("gpt2")
        return cls([encoding.decode_single_token_bytes(i) for i in range(encoding.n_vocab - 1)], [END])

    @cached_property
    def encoding(self) -> tiktoken.Encoding:
        """The same vocabulary in tiktoken, which encodes quickly; `encode_by_hand` shows what it does."""
        return tiktoken.Encoding("minigpt", pat_str=SPLIT, mergeable_ranks=self.ranks, special_tokens=self.special)

    @cached_property
    def ranks(self) -> dict[bytes, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    def encode(self, text: str) -> list[int]:
        """Text to ids; never a special id: special strings in a text are plain text, so users can't forge turns."""
        return self.encoding.encode_ordinary(text)

    def encode_by_hand(self, text: str) -> list[int]:
        """What `encode` computes: in each chunk, always merge the pair that makes the earliest learnt token.

        >>> tok = Tokenizer.train(["low lower lowest"], vocab_size=262)
        >>> tok.encode_by_hand("lower") == tok.encode("lower")
        True
        """
        ids = []
        for chunk in regex.findall(SPLIT, text):
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
        if 0 <= i < len(self.tokens):
            return self.tokens[i]
        if i in self._special_names:
            return self._special_names[i].encode()
        raise ValueError(f"token id {i}: must be from 0 to {self.vocab_size - 1}")

    @cached_property
    def _special_names(self) -> dict[int, str]:
        return {i: name for name, i in self.special.items()}

    def to_json(self) -> str:
        """The tokenizer.json of Hugging Face's `tokenizers`, which opens it and agrees on the ids."""
        # That library writes each byte as a printable character and lists, for every token, the pairs that make it.
        text = ["".join(BYTE_TO_CHAR[byte] for byte in token) for token in self.tokens]
        merges = []
        for token in self.tokens:
            splits = [(token[:i], token[i:]) for i in range(1, len(token))]
            known = sorted((self.ranks[a], self.ranks[b]) for a, b in splits if a in self.ranks and b in self.ranks)
            merges += [[text[a], text[b]] for a, b in known]
        flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
        content = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": name, **flags} for name, i in self.special.items()],
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(text)}, "merges": merges},
        }
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, content: str) -> "Tokenizer":
        """Read what `to_json` wrote. ValueError when it is no byte-level BPE."""
        try:
            parsed = json.loads(content)
            special = {token["content"]: token["id"] for token in parsed["added_tokens"]}
            vocab = {name: i for name, i in parsed["model"]["vocab"].items() if name not in special}
            names = sorted(vocab, key=vocab.get)
            tok = cls([bytes(CHAR_TO_BYTE[char] for char in name) for name in names], sorted(special, key=special.get))
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as problem:
            raise ValueError(f"not a tokenizer.json of a byte-level BPE: {problem!r}") from problem
        if sum(len(token) == 1 for token in tok.tokens) != 256:
            raise ValueError("tokenizer.json: each of the 256 bytes must be a token")
        if sorted(vocab.values()) != list(range(len(vocab))) or tok.special != special:
            raise ValueError("tokenizer.json: the ids must run from 0 without a hole, the special ones last")
        return tok


def learn_merges(chunks: dict[bytes, int], count: int) -> list[bytes]:
    """The tokens of up to `count` merges over chunks, given with how often each occurs.

    Pair counts are kept up to date: a merge touches only the chunks that hold the pair.

    >>> learn_merges({b"low": 3, b"lot": 2}, count=2)
    [b'lo', b'low']
    """
    words = [[bytes([byte]) for byte in chunk] for chunk in chunks]
    weights = list(chunks.values())
    pair_counts: Counter = Counter()
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
        token = pair[0] + pair[1]
        learnt[token] = None  # subtle: two different pairs may make the same token, which is learnt once
        changed = Counter()
        for i in words_with.pop(pair):
            old, new = words[i], _merge(words[i], pair, token)
            for before in zip(old, old[1:]):
                changed[before] -= weights[i]
            for after in zip(new, new[1:]):
                changed[after] += weights[i]
                words_with[after].add(i)
            words[i] = new
        for other, change in changed.items():
            if change:
                pair_counts[other] += change
                heapq.heappush(heap, (-pair_counts[other], _descending(other), other))
    return list(learnt)


def _merge(word: list[bytes], pair: tuple[bytes, bytes], token: bytes) -> list[bytes]:
    merged, i = [], 0
    while i < len(word):
        if word[i] == pair[0] and i + 1 < len(word) and word[i + 1] == pair[1]:
            merged.append(token)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged


def _descending(pair: tuple[bytes, bytes]) -> tuple[str, str]:
    """A sort key that puts the greater byte strings first, as heapq pops the least: each byte b counts as 255 - b."""
    return tuple(part.translate(_COMPLEMENT).decode("latin-1") + "\u0100" for part in pair)


_COMPLEMENT = bytes(255 - byte for byte in range(256))
# GPT-2's table: printable Latin-1 bytes stand for themselves, the others are moved up behind U+00FF.
_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_MOVED = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_TO_CHAR = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_MOVED)}
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}
