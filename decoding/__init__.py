"""From next-token probabilities to text: the lecture's decoders (G1 to G9), for any model that fits a small protocol.

Read filters.py, then generate.py, then beam.py. protocol.py says what a model must offer; settings.py checks what the
user asks for; repetition.py has the filters that look at the text so far; fast/ does the same in less time.
"""

from decoding import filters, repetition
from decoding.beam import beam_search, beam_steps
from decoding.filters import filter_steps
from decoding.generate import draw, generate, generate_steps, stream, why_stop
from decoding.protocol import BeamStep, Generation, LanguageModel, Path, Step
from decoding.settings import Settings, checked
from decoding.uncached import uncached

# The filters as users call them: their arguments are checked.
temperature = checked(filters.temperature)
top_k = checked(filters.top_k)
top_p = checked(filters.top_p)
min_p = checked(filters.min_p)
repetition_penalty = checked(repetition.repetition_penalty)
no_repeat_ngram = checked(repetition.no_repeat_ngram)
ban = checked(repetition.ban)

__all__ = [
    "BeamStep", "Generation", "LanguageModel", "Path", "Settings", "Step", "ban", "beam_search", "beam_steps", "draw",
    "filter_steps", "generate", "generate_steps", "min_p", "no_repeat_ngram", "repetition_penalty", "stream",
    "temperature", "top_k", "top_p", "uncached", "why_stop",
]  # fmt: skip
