"""From next-token probabilities to text (G1 to G9), for any model that fits protocol.py.

Read filters.py, then generate.py, then beam.py. settings.py checks what the user asks for; stops.py ends a text at a
stop string; stream.py gives ids or text as they come.
"""

from decoding import filters
from decoding.beam import BeamStep, beam_search, beam_steps
from decoding.checked import checked
from decoding.filters import filter_steps
from decoding.generate import Generation, draw, generate, generate_steps, why_stop
from decoding.protocol import LanguageModel, uncached
from decoding.settings import Settings
from decoding.stream import stream, stream_text

# The filters as users call them: their arguments are checked.
temperature = checked(filters.temperature)
top_k = checked(filters.top_k)
top_p = checked(filters.top_p)
min_p = checked(filters.min_p)
repetition_penalty = checked(filters.repetition_penalty)
no_repeat_ngram = checked(filters.no_repeat_ngram)
ban = checked(filters.ban)

__all__ = [
    "BeamStep", "Generation", "LanguageModel", "Settings", "ban", "beam_search", "beam_steps", "draw",
    "filter_steps", "generate", "generate_steps", "min_p", "no_repeat_ngram", "repetition_penalty", "stream",
    "stream_text", "temperature", "top_k", "top_p", "uncached", "why_stop",
]  # fmt: skip
