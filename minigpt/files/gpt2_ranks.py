"""GPT-2's own vocabulary, from a copy of its rank file or through tiktoken."""

import base64
import hashlib
import os
from pathlib import Path

RANKS = "MINIGPT_GPT2_RANKS"
SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"


def gpt2_tokens() -> list[bytes]:
    """The bytes of GPT-2's 50,256 ordinary tokens, in the order of their ids.

    MINIGPT_GPT2_RANKS names a copy of the rank file, with "token in base64, rank" per line; without it, tiktoken
    downloads the file once. OSError when there is neither, ValueError when the copy is another file.
    """
    if path := os.getenv(RANKS):
        content = Path(path).read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != SHA256:
            raise ValueError(f"{path}: not GPT-2's rank file: its SHA-256 is {found}, must be {SHA256}")
        return [base64.b64decode(line.split()[0]) for line in content.splitlines()]

    import tiktoken

    try:
        encoding = tiktoken.get_encoding("gpt2")
    except OSError as problem:
        hint = f"bring gpt2.tiktoken along (openai-whisper has one) and set {RANKS}=path/to/it"
        raise OSError(f"GPT-2's vocabulary can't be downloaded here; {hint}") from problem
    return [encoding.decode_single_token_bytes(i) for i in range(encoding.n_vocab - 1)]
