"""Token files: one long row of ids on disk, written as a stream and read through a memory map."""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from .writing import written_whole


def write_tokens(path: Path | str, documents: Iterable[Sequence[int]], end_id: int, vocab_size: int) -> int:
    """Write documents as one token file; return its token count.

    The end token stands before every document, and once more at the very end.
    """
    return write_ids(path, chain(([end_id, *ids] for ids in documents), [[end_id]]), vocab_size)


def write_ids(path: Path | str, pieces: Iterable[Sequence[int]], vocab_size: int) -> int:
    """Write ids that come in pieces, end tokens among them, as a token file; return how many there are.

    The file is a .npy of uint16, or of uint32 for a large vocabulary. Its length is filled in at the end, so a corpus
    may exceed memory. When writing fails, an older file stays. ValueError for an id outside of the vocabulary.
    """
    dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (0,)}
    with written_whole(path) as aside, open(aside, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for piece in pieces:
            ids = np.asarray(piece)
            if ids.size:
                _check_ids(path, ids, vocab_size)
                file.write(ids.astype(dtype).tobytes())
        count = (file.tell() - start) // dtype.itemsize

        # now the length is known; NumPy pads a header so that a longer shape still fits in it
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header | {"shape": (count,)})
    return count


def read_tokens(path: Path | str, vocab_size: int | None = None) -> np.ndarray:
    """Map a token file into memory: (N,) whole numbers, read from disk as they are used.

    ValueError, with the file's name, for anything else, and for ids outside of the vocabulary if its size is given.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path}: must be a file, a .npy as write_tokens makes it")
    try:
        tokens = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as problem:  # NumPy raises many kinds for a file that is damaged, or of another format
        raise ValueError(f"{path}: not a token file, a .npy as write_tokens makes it ({problem!s:.200})") from problem
    _check_ids(path, tokens, vocab_size)
    return tokens


def _check_ids(path: Path | str, ids: np.ndarray, vocab_size: int | None) -> None:
    """ValueError unless the ids are one row of whole numbers from 0, below vocab_size if that is given."""
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"{path}: must be one row of token ids, not {ids.dtype} of shape {ids.shape}")
    limit = 2**32 if vocab_size is None else vocab_size
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
        raise ValueError(f"{path}: ids from {ids.min()} to {ids.max()}: must be from 0 to {limit - 1}")
