"""From next-token probabilities to text: the lecture's decoders (G1 to G9), for any model that fits a small protocol.

Read filters.py, then generate.py, then beam.py.
"""

from decoding.beam import BeamStep, Path, beam_search, beam_steps
from decoding.filters import ban, min_p, no_repeat_ngram, repetition_penalty, temperature, top_k, top_p
from decoding.generate import Generation, LanguageModel, Step, draw, filter_steps, generate, generate_steps, stream

__all__ = [
    "BeamStep", "Generation", "LanguageModel", "Path", "Step", "ban", "beam_search", "beam_steps", "draw",
    "filter_steps", "generate", "generate_steps", "min_p", "no_repeat_ngram", "repetition_penalty", "stream",
    "temperature", "top_k", "top_p",
]  # fmt: skip
