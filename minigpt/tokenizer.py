"""Text <-> token ids: byte-pair encoding, trained by hand (P1).

Training starts from the 256 bytes and merges the most frequent pair of neighbours, again and again. Each merge makes
one new token. Encoding repeats the merges on another text, in the order in which they were learnt.
Gage 1994; Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019.
"""

import codecs
import math
import operator
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property

from plain_or_fast import has_twin, plain

from .config import COUNT, check

# GPT-2's split of a text into chunks. No merge crosses their borders. A chunk is the end of a contraction, or letters,
# digits or signs with the space before them, or a run of spaces.
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
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
    """Join the pair wherever it stands in the word, from left to right: a a a b becomes aa a b."""
    i = 0
    while i < len(word) - 1:
        if (word[i], word[i + 1]) == pair:
            word[i : i + 2] = [word[i] + word[i + 1]]
        i += 1


@has_twin("minigpt.fast.encoding")
def encode_ordinary(tok: "Tokenizer", text: str) -> list[int]:
    """Split a text into chunks; in each that is no token, always merge the pair whose token was learnt first."""
    ids, ranks = [], tok.ranks
    for chunk in chunks_of(text, tok.split):
        parts = [chunk] if chunk in ranks else [bytes([byte]) for byte in chunk]
        while len(parts) > 1:
            # which token would each pair of neighbours make?
            made = [ranks.get(a + b, math.inf) for a, b in zip(parts, parts[1:])]
            first = min(made)
            if first == math.inf:
                break  # none

            # merge the one learnt first; of equals, the leftmost
            i = made.index(first)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def chunks_of(text: str, split: str) -> Iterator[bytes]:
    """The chunks of a text, as UTF-8. ValueError when the pattern fails, or leaves a character out."""
    import regex

    end = 0
    try:
        for match in regex.finditer(split, text):
            if match.start() > end or match.end() == end:
                break
            end = match.end()
            yield match[0].encode()
    except regex.error as problem:
        raise ValueError(f"split={split!r:.100}: not a pattern ({problem})") from problem
    if end < len(text):
        raise ValueError(f"split={split!r:.100}: leaves out the character {text[end]!r} at place {end}")


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
        names: dict[str, str | None] | None = None,
    ):
        if not isinstance(special_tokens, dict):
            special_tokens = {name: i for i, name in enumerate(several(special_tokens, "special_tokens"), len(tokens))}
        if not isinstance(chat_template, str | None):
            raise ValueError(f"chat_template={chat_template!r:.40}: must be a text; of several, pass the one to use")
        ends = [special_tokens[end]] if end in special_tokens else []

        self.tokens, self.special = tokens, special_tokens
        self.split, self.end, self.chat_template, self.names = split, end, chat_template, names or {}
        self.start = ends if start is None else list(several(start, "start"))
        self.end_ids = tuple(dict.fromkeys([*ends, *several(end_ids, "end_ids")]))
        self.vocab_size = max([len(tokens), *(i + 1 for i in special_tokens.values())])

    def __repr__(self) -> str:
        return f"<Tokenizer of {self.vocab_size} ids, special tokens {', '.join(self.special) or 'none'}>"

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, special_tokens: Iterable[str] = SPECIAL_TOKENS
    ) -> "Tokenizer":
        """Learn a vocabulary of at most vocab_size ids, special tokens included, from texts.

        It is smaller when every chunk has become one token. Of pairs equally frequent, the greater pair of byte strings
        comes first. ValueError when there is no room for the 256 bytes, and for half of a surrogate pair in a text.
        """
        import regex  # wherever it is used, so that loading a model's weights doesn't need it

        special_tokens = list(several(special_tokens, "special_tokens"))
        smallest = 256 + len(special_tokens)
        fits = lambda size: COUNT[0](size) and size >= smallest
        check({"vocab_size": vocab_size}, ["vocab_size"], fits, f"at least {smallest}: bytes and special tokens")

        # how often each chunk occurs: merges look at each distinct chunk once
        chunks = Counter()
        for text in several(texts, "texts"):
            utf8(text)
            chunks.update(regex.findall(SPLIT, text))
        chunks = {chunk.encode(): count for chunk, count in chunks.items()}

        return cls([bytes([i]) for i in range(256)] + learn_merges(chunks, vocab_size - smallest), special_tokens)

    @classmethod
    def gpt2(cls) -> "Tokenizer":
        """GPT-2's own vocabulary of 50,257 ids. Without a network, MINIGPT_GPT2_RANKS must name its rank file."""
        from .files.gpt2_ranks import gpt2_tokens

        return cls(gpt2_tokens(), [END], start=[])

    def encode(self, text: str, *, allowed_special: Iterable[str] = ()) -> list[int]:
        """Text to ids. Special strings in a text are plain text, so users can't forge turns.

        allowed_special: names of special tokens, or "all", that become their ids all the same. ValueError for half of
        a surrogate pair, which is no Unicode, and for a character that the vocabulary has no token for.

        >>> tok = Tokenizer.train(["low lower lowest"], vocab_size=262)
        >>> tok.encode("low<|endoftext|>", allowed_special=["<|endoftext|>"])
        [257, 259]
        """
        import regex

        # refuse what has no ids
        missing = {byte for byte in set(utf8(text)) if bytes([byte]) not in self.ranks}
        if missing:
            i = next(i for i, char in enumerate(text) if not missing.isdisjoint(char.encode()))
            raise ValueError(f"the character {text[i]!r} at place {i} has no token in this vocabulary: leave it out")
        names = self.special if allowed_special == "all" else list(several(allowed_special, "allowed_special"))
        if unknown := set(names) - self.special.keys():
            raise ValueError(f"allowed_special={sorted(unknown)}: must be of {', '.join(self.special)}")

        # all of it is plain text, unless special tokens are asked for
        if not names:
            return encode_ordinary(self, text)

        # cut the text at these; of two that begin alike, the longer one counts
        pattern = "|".join(map(regex.escape, sorted(names, key=len, reverse=True)))
        ids = []
        for part in regex.split(f"({pattern})", text):
            ids += [self.special[part]] if part in names else encode_ordinary(self, part)
        return ids

    def encode_by_hand(self, text: str) -> list[int]:
        """What `encode` computes, always by the plain loop."""
        with plain():
            return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; invalid UTF-8 becomes U+FFFD. ValueError for an id outside of the vocabulary."""
        return b"".join(map(self.token_bytes, several(ids, "ids"))).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The pieces of `decode(ids)`, each as soon as it is certain: a character split over tokens comes out whole."""
        return codecs.iterdecode(map(self.token_bytes, several(ids, "ids")), "utf-8", errors="replace")

    def token_bytes(self, i: int) -> bytes:
        """The bytes of one id, an ordinary or a special one. ValueError for an id that no token has."""
        try:
            i = operator.index(i)
        except TypeError:
            raise ValueError(f"token id {i!r:.40}: must be a whole number") from None
        if i in self.special_names:
            return self.special_names[i].encode()
        if 0 <= i < len(self.tokens):
            return self.tokens[i]
        unused = "no token has it; ids are" if 0 <= i < self.vocab_size else "must be"
        raise ValueError(f"token id {i}: {unused} from 0 to {self.vocab_size - 1}")

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


def utf8(text: str) -> bytes:
    """The bytes of a text. ValueError for no text, and for half of a surrogate pair, which stands for no character."""
    try:
        return str.encode(text)
    except TypeError:
        raise ValueError(f"{text!r:.40} is of type {type(text).__name__}: must be a text") from None
    except UnicodeEncodeError as problem:
        where = f"{text[problem.start]!r} at place {problem.start}"
        raise ValueError(f"the character {where} is half of a surrogate pair, not Unicode: leave it out") from None


def several(values: Iterable, name: str) -> Iterable:
    """The values. ValueError for a single one: of a text, the characters would be taken for texts."""
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__") or getattr(values, "ndim", 1) == 0:
        raise ValueError(f"{name}={values!r:.40}: must be several; put a single one into a list")
    return values
