"""From tokens to text, piece by piece: no broken characters, and nothing that may turn out to be a stop string."""

from collections.abc import Callable, Sequence

BROKEN = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns one row's tokens into text; the pieces joined are exactly the text of all tokens at once.

    Args:
        decode: Text of a list of token ids, without special tokens.
        stop: Strings that end the text. The text is cut before the first of them.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, tuple(stop)
        self._ids: list[int] = []
        # Tokens before `_start` are out; those up to `_read` are out too, but the next ones are decoded together
        # with them, since some tokenizers write a word's first token differently at the start of a text.
        self._start = self._read = 0
        self._held = ""
        self.text = ""
        """All text given out so far."""
        self.stopped = False
        """A stop string was met; what follows is ignored."""

    def push(self, token: int) -> str:
        """Take a token; the text that is certain now."""
        if self.stopped:
            return ""
        self._ids.append(token)
        fresh = self._fresh()
        # The end may be the first bytes of a character whose others are in the next token.
        return "" if fresh.endswith(BROKEN) else self._give(fresh)

    def finish(self) -> str:
        """No token follows: the text that was held back."""
        if self.stopped:
            return ""
        piece = self._give(self._fresh())
        rest, self._held = self._held, ""
        self.text += rest
        return piece + rest

    def _fresh(self) -> str:
        known = self._decode(self._ids[self._start : self._read])
        return self._decode(self._ids[self._start :])[len(known) :]

    def _give(self, fresh: str) -> str:
        self._start, self._read = self._read, len(self._ids)
        text = self._held + fresh
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, certain, self._held = True, text[: min(found)], ""
        else:
            end = len(text) - self._maybe_stop(text)
            certain, self._held = text[:end], text[end:]
        self.text += certain
        return certain

    def _maybe_stop(self, text: str) -> int:
        """How many characters at the end of the text may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stop if n < len(stop))), 0)
