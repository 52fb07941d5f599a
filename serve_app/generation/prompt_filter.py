"""Refuses prompts with terms that the operator has listed."""

import re
import unicodedata
from collections.abc import Iterable

from deployments.config import Config


class SafetySettings(Config):
    """The terms that no prompt may contain; none by default."""

    prompt_terms: tuple[str, ...] = ()  # whole words or phrases, in any case and Unicode form


class PromptFilter:
    """Finds refused terms in prompts, as whole words whatever their case, accents and Unicode form."""

    def __init__(self, terms: Iterable[str]) -> None:
        """Raises: ValueError for a term without a letter or digit."""
        plain = [_plain(term) for term in terms]
        if not all(plain):
            raise ValueError("a refused term has at least one letter or digit")
        # A phrase matches whatever separates its words. The order of the terms does not matter: no match is reported.
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, plain))})(?!\w)") if plain else None

    def refuse(self, prompt: str) -> bool:
        """Whether a prompt contains a refused term."""
        return self._pattern is not None and self._pattern.search(_plain(prompt)) is not None


def _plain(text: str) -> str:
    """Folded for comparison: without case, accents, ligatures and full-width forms; all else is one space."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    letters = "".join(char for char in folded if not unicodedata.combining(char) and char not in INVISIBLE)
    return re.sub(r"[\W_]+", " ", letters).strip()


INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"  # could hide a word from this filter, but not from a model
