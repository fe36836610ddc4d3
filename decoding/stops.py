"""Stop strings: a text ends before the first of them, wherever tokens begin and end, and nobody gets to see it."""

from collections.abc import Sequence

from decoding.settings import Settings

HALF = "\ufffd"  # what `decode` makes of the first bytes of a character while the others are still to come


def find_stop(text: str, stop: Sequence[str], start: int = 0, may_grow: bool = True) -> tuple[int, bool]:
    """Where in text[start:] the first stop string begins, and True; or where one may begin, and False.

    A stop string may begin where the rest of a text that may grow is the beginning of one. If none does anywhere, the
    end of the text is returned, and False.

    >>> find_stop("Hi!\\n", ["\\n\\n", "You:"]), find_stop("Hi!\\n\\nYou:", ["\\n\\n", "You:"])
    ((3, False), (3, True))
    """
    for i in range(start, len(text)):
        if text.startswith(tuple(stop), i):
            return i, True
        if may_grow and any(one.startswith(text[i:]) for one in stop):
            return i, False
    return len(text), False


class Reader:
    """Reads one row's new tokens, and gives out their text as soon as no stop string can begin in it.

    The text of the first min_new_tokens tokens is given out whatever it holds.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.ids: list[int] = []
        self.given = 0  # characters given out

    def read(self, id: int | None, stop: str | None) -> tuple[str, str | None]:
        """The text that can be given out after one more token, and why the row ends: "stop", or the reason given."""
        if id is not None and stop != "eos":  # an end token is no text
            self.ids.append(id)
        text = self.settings.decode(self.ids)  # all of them again: a decode may join or trim across any border
        text = text if stop else text.rstrip(HALF)

        # how far can it be given out?
        stops = self.settings.stop if len(self.ids) > self.settings.min_new_tokens else ()
        end, found = find_stop(text, stops, self.given, may_grow=stop is None)
        piece, self.given = text[self.given : end], end
        return piece, "stop" if found else stop
