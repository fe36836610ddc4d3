"""A tokenizer on disk: tokenizer.json as Hugging Face writes it, and what a GGUF file lists."""

import json
from collections.abc import Iterable, Iterator

from ..tokenizer import END, PROMPT, SPLIT, Tokenizer
from .reading import parse_json

# SmolLM2's split: every digit is a chunk of its own; the rest is split as by SPLIT.
SPLIT_DIGITS = r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
# GPT-2's table of bytes as characters: printable Latin-1 ones stand for themselves, the others move to U+0100 and up.
_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_MOVED = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_TO_CHAR = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_MOVED)}
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def to_json(tok: Tokenizer) -> str:
    """The tokenizer.json of Hugging Face's `tokenizers`, which opens it and agrees on the ids."""
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=tok.split == SPLIT)
    split = dict(type="Split", pattern={"Regex": tok.split}, behavior="Isolated", invert=False)
    split_first = dict(type="Sequence", pretokenizers=[split, byte_level])
    vocab = {_as_text(token): i for i, token in enumerate(tok.tokens) if token}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name, **flags} for name, i in tok.special.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level if tok.split == SPLIT else split_first,
        "post_processor": _start_to_json(tok),
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab | tok.special, "merges": _merges(tok)},
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
        known.sort(key=lambda pair: (tok.ranks[pair[0]], tok.ranks[pair[1]]))
        merges += [[_as_text(a), _as_text(b)] for a, b in known]
    return merges


def _start_to_json(tok: Tokenizer) -> dict | None:
    """What puts the start before a text; not for our own models, whose prompts in a chat begin without it."""
    if not tok.start or PROMPT in tok.special:
        return None
    names = [tok.special_names[i] for i in tok.start]
    known = {name: {"id": name, "ids": [tok.special[name]], "tokens": [name]} for name in names}
    start = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    first, second = ({"Sequence": {"id": text, "type_id": 0}} for text in "AB")
    single, pair = [*start, first], [*start, first, second]
    return dict(type="TemplateProcessing", single=single, pair=pair, special_tokens=known)


def from_json(content: str, end: str = END, chat_template: str | None = None, **other) -> Tokenizer:
    """Read a tokenizer.json, ours or another's. ValueError when it is not a byte-level BPE of a supported kind.

    What other files say of it: end, the token that ends a text; the chat template; other arguments of Tokenizer.
    """
    parsed = parse_json(content, "tokenizer.json")
    try:
        model = parsed["model"]
        special = {token["content"]: token["id"] for token in parsed["added_tokens"]}
        for key, where in {"normalizer": parsed, "end_of_word_suffix": model, "byte_fallback": model}.items():
            if where.get(key):
                raise ValueError(f"{key} is {where[key]!r:.80}; only a tokenizer without it is supported")

        return from_vocabulary(
            {name: i for name, i in model["vocab"].items() if name not in special},
            [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]],
            special,
            split=_split_from_json(parsed["pre_tokenizer"]),
            end=end,
            start=None if PROMPT in special else [special[name] for name in _start_from_json(parsed)],
            chat_template=chat_template,
            **other,
        )
    except (AttributeError, KeyError, TypeError) as problem:
        raise ValueError(f"tokenizer.json: not a byte-level BPE: {problem!r:.200}") from problem
    except ValueError as problem:
        raise ValueError(f"tokenizer.json: {problem}") from problem


def from_vocabulary(
    vocab: dict[str, int], merges: Iterable[tuple[str, str]], special: dict[str, int], **other
) -> Tokenizer:
    """A tokenizer from what files hold: tokens as printable characters, and the pairs that make them, in order.

    ValueError when an id is missing, or when the merges are not in the order of the ids that they make: tiktoken and
    `encode_by_hand` choose between merges by that order.
    """
    ids = sorted([*vocab.values(), *special.values()])
    if ids != list(range(len(ids))):
        raise ValueError("the ids must run from 0 and leave none out")
    tokens = [b""] * (max(vocab.values()) + 1)
    for name, i in vocab.items():
        tokens[i] = bytes(CHAR_TO_BYTE[char] for char in name)
    made = [vocab[a + b] if a in vocab and b in vocab else -1 for a, b in merges]
    if made != sorted(made) or -1 in made:
        raise ValueError("the merges must join known tokens, and be in the order of the ids that they make")
    return Tokenizer(tokens, special, **other)


def _split_from_json(written: dict) -> str:
    """The pattern that a tokenizer.json's pre-tokenizer splits by."""
    match [{"use_regex": True} | part for part in written.get("pretokenizers", [written])]:
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
            return pattern
    raise ValueError(f"pre_tokenizer is {written!r:.200}; only ByteLevel, alone or after Digits or Split, is supported")


def _start_from_json(parsed: dict) -> Iterator[str]:
    """The special tokens that a tokenizer.json puts before a text."""
    post = parsed.get("post_processor") or {}
    for part in post.get("processors", [post]):
        for piece in part.get("single", []):
            if "SpecialToken" not in piece:
                break
            yield piece["SpecialToken"]["id"]
