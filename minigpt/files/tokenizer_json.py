"""A tokenizer on disk: tokenizer.json as Hugging Face writes it, and what a GGUF file lists."""

import json
import re
from collections.abc import Iterable

from ..tokenizer import END, PROMPT, SPLIT, Tokenizer
from .reading import parse_json

# SmolLM2's split: every digit is a chunk of its own; the rest is split as by SPLIT.
SPLIT_DIGITS = r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
# GPT-2's table of bytes as characters: printable Latin-1 ones stand for themselves, the others move to U+0100 and up.
_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_MOVED = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_TO_CHAR = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_MOVED)}
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}

# What else a tokenizer.json may say: the values by which a text gets the same ids as from us.
ABSENT = [None, False, ""]
SUPPORTED = {
    "version": ["1.0"], "type": ["BPE", None], "ignore_merges": [*ABSENT, True], "normalizer": ABSENT,
    "truncation": ABSENT, "padding": ABSENT, "dropout": ABSENT, "byte_fallback": ABSENT,
    "continuing_subword_prefix": ABSENT, "end_of_word_suffix": ABSENT,
}  # fmt: skip
MOST_IDS, MOST_BYTES = 2**22, 1000
# The patterns that `regex`, tiktoken and `tokenizers` read alike: alternatives of classes, characters and short groups,
# in which nothing that repeats is repeated. "{1,3}+" is a repeated group for one of them, and greedy for the others.
_CLASS = r"\\[pP]\{\w+\}|\\[sSdDrnt]|\\[^\w\s]"
_ATOM = rf"(?:{_CLASS}|\[\^?(?:{_CLASS}|[^\[\]\\&])+\]|[^\\\[\]()" + "{}|*+?.^$])"
_MANY = rf"(?:{_ATOM}(?:[?*+]\+?|\{{\d{{1,2}}(?:,\d{{0,2}})?\}})?)"
_PIECE = rf"(?:\(\?i?:{_MANY}+(?:\|{_MANY}+)*\)\??|\(\?[!=]{_ATOM}\)|\\s\+\+\$|{_MANY})"
PATTERN = rf"{_PIECE}+(?:\|{_PIECE}+)*"
VARIED = "".join(map(chr, range(32, 127))) + " \n\r\n\t  é中²½🙂\u0301\u200b\xa0"


def to_json(tok: Tokenizer) -> str:
    """The tokenizer.json of Hugging Face's `tokenizers`, which opens it and agrees on the ids."""
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=tok.split == SPLIT)
    before = byte_level
    if tok.split != SPLIT:  # tiktoken has "{1,3}+" at the end of an alternative where `tokenizers` needs "{1,3}"
        pattern = checked_split(re.sub(r"(\{[\d,]+\})\+(?=\||$)", r"\1", tok.split))
        split = dict(type="Split", pattern={"Regex": pattern}, behavior="Isolated", invert=False)
        before = dict(type="Sequence", pretokenizers=[split, byte_level])

    vocab = {_as_text(token): i for i, token in enumerate(tok.tokens) if token}
    merges = _merges(tok)
    whole_words = not {name for name in vocab if len(name) > 1} <= {a + b for a, b in merges}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name, **flags} for name, i in tok.special.items()],
        "normalizer": None,
        "pre_tokenizer": before,
        "post_processor": _start_to_json(tok),
        "decoder": byte_level,
        "model": {"type": "BPE", "ignore_merges": whole_words, "vocab": vocab | tok.special, "merges": merges},
    }
    return json.dumps(content, ensure_ascii=False)


def _as_text(token: bytes) -> str:
    return "".join(BYTE_TO_CHAR[byte] for byte in token)


def _merges(tok: Tokenizer) -> list[list[str]]:
    """For every token, all pairs of known tokens that make it."""
    merges = []
    for token in tok.tokens:
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [(a, b) for a, b in pairs if a in tok.ranks and b in tok.ranks]
        merges += [[*map(_as_text, pair)] for pair in sorted(known, key=lambda pair: [*map(tok.ranks.get, pair)])]
    return merges


def _start_to_json(tok: Tokenizer) -> dict | None:
    """What puts the start before a text; not for our own models, whose prompts in a chat begin without it."""
    if not tok.start or (PROMPT in tok.special and tok.start == [tok.special.get(tok.end)]):
        return None
    names = [tok.special_names[i] for i in tok.start]
    known = {name: {"id": name, "ids": [tok.special[name]], "tokens": [name]} for name in names}
    start = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    first, second = ({"Sequence": {"id": text, "type_id": 0}} for text in "AB")
    return dict(type="TemplateProcessing", single=[*start, first], pair=[*start, first, second], special_tokens=known)


def from_json(content: str, end: str = END, chat_template: str | None = None, **other) -> Tokenizer:
    """Read a tokenizer.json, ours or another's. ValueError when it is not a byte-level BPE of a supported kind.

    What other files say of it: end, the token that ends a text; the chat template; other arguments of Tokenizer.
    """
    parsed = parse_json(content, "tokenizer.json")
    try:
        model = parsed["model"]
        for key, value in (parsed | model).items():
            if value not in SUPPORTED.get(key, [value]):
                raise ValueError(f"{key} is {value!r:.80}; a byte-level BPE with {SUPPORTED[key][0]!r} is supported")

        # added tokens; `tokenizers` gives those that the vocabulary lacks the next ids, whatever the file says
        special, next_id = {}, len(model["vocab"])
        for token in parsed["added_tokens"]:
            name, i = token["content"], token["id"]
            two_ids = model["vocab"].get(name, next_id) != i
            if token.get("special") is not True or two_ids or any(map(token.get, ("single_word", "lstrip", "rstrip"))):
                raise ValueError(f"the added token {name!r:.40} isn't special, has two ids or takes spaces")
            special[name], next_id = i, max(next_id, i + 1)
        start = [special[name] for name in _start_from_json(parsed, special)]

        return from_vocabulary(
            {name: i for name, i in model["vocab"].items() if name not in special},
            [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]],
            special,
            whole_words=model.get("ignore_merges", False),
            split=_split_from_json(parsed["pre_tokenizer"]),
            end=end,
            start=start if start or PROMPT not in special else None,
            chat_template=chat_template,
            **other,
        )
    except (AttributeError, KeyError, TypeError) as problem:
        raise ValueError(f"tokenizer.json: not a byte-level BPE: {problem!r:.200}") from problem
    except ValueError as problem:
        raise ValueError(f"tokenizer.json: {problem}") from problem


def from_vocabulary(
    vocab: dict[str, int], merges: Iterable[tuple[str, str]], special: dict[str, int], whole_words=False, **other
) -> Tokenizer:
    """A tokenizer from what files hold: tokens as printable characters, and the pairs that make them, in order.

    ValueError when two tokens have one id, or when the merges are not in the order of the ids that they make: tiktoken
    and `encode_by_hand` choose between merges by that order. whole_words: a chunk that is a token needs no merges.
    """
    # ids, one for each token
    ids = [*vocab.values(), *special.values()]
    if not all(type(i) is int and 0 <= i < MOST_IDS for i in ids) or len(set(ids)) < len(ids) or not vocab:
        raise ValueError(f"the ids must be whole numbers below {MOST_IDS}, each of one token")
    if "" in special or max(map(len, vocab)) > MOST_BYTES or "" in vocab:
        raise ValueError(f"a token must have from 1 to {MOST_BYTES} bytes")
    tokens = [b""] * (max(vocab.values()) + 1)
    for name, i in vocab.items():
        tokens[i] = bytes(CHAR_TO_BYTE[char] for char in name)

    # merges that make them
    made = [vocab.get("".join(pair), -1) if len(pair) == 2 and vocab.keys() >= {*pair} else -1 for pair in merges]
    if made != sorted(made) or -1 in made:
        raise ValueError("the merges must join known tokens, and be in the order of the ids that they make")
    for name in vocab.keys() - {_as_text(tokens[i]) for i in made}:
        splits = (name[:i] in vocab and name[i:] in vocab for i in range(1, len(name)))
        if len(name) > 1 and (not whole_words or any(splits)):
            raise ValueError(f"no merge makes the token {name!r:.40}")
    return Tokenizer(tokens, special, **other)


def _split_from_json(written: dict) -> str:
    """The pattern that a tokenizer.json's pre-tokenizer splits by."""
    match [{"use_regex": True} | part for part in (written or {}).get("pretokenizers", [written or {}])]:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return SPLIT
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ]:
            return SPLIT_DIGITS
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return checked_split(pattern)
    raise ValueError(f"pre_tokenizer is {written!r:.200}; only ByteLevel, alone or after Digits or Split, is supported")


def checked_split(pattern: str) -> str:
    """A pattern that every library reads alike and quickly. ValueError for one that may not be."""
    import regex

    if len(pattern) > 2000 or not regex.fullmatch(PATTERN, pattern):
        raise ValueError(f"the split {pattern!r:.200} is not of a kind that all libraries read alike")
    try:
        for char in VARIED:
            text = char * 2000 + VARIED
            if "".join(regex.findall(pattern, text, timeout=0.2)) != text or regex.search(pattern, text)[0] == "":
                raise ValueError(f"the split {pattern!r:.200} leaves something out of a text")
    except TimeoutError as problem:
        raise ValueError(f"the split {pattern!r:.200} takes too long") from problem
    return pattern


def _start_from_json(parsed: dict, special: dict[str, int]) -> list[str]:
    """The special tokens that a tokenizer.json puts before a text. ValueError when it adds anything else."""
    post = parsed.get("post_processor") or {"type": "ByteLevel"}
    start = []
    for part in post["processors"] if post["type"] == "Sequence" else [post]:
        if part["type"] == "ByteLevel":
            continue
        *names, text = part["single"] if part["type"] == "TemplateProcessing" else [None]
        names = [piece.get("SpecialToken", {}).get("id") for piece in names]
        told = [part["special_tokens"].get(name, {}).get("ids") for name in names]
        if not text or text.get("Sequence", {}).get("id") != "A" or told != [[special.get(name)] for name in names]:
            raise ValueError(f"post_processor is {part!r:.200}; only special tokens before a text are supported")
        start += names
    return start
