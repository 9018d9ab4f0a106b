"""Every failure that a user can cause or meet.

A message names the file, what was found, what was wanted, and the remedy.
"""

# Longest text out of a file that a message repeats.
MAX_SHOWN = 80


class RwkvEdgeError(Exception):
    """Root of all errors that this package raises on purpose; its text is one line for a person."""


class FormatError(RwkvEdgeError):
    """A file is truncated, inconsistent, or not what its name says."""


class UnsupportedModelError(RwkvEdgeError):
    """A well-formed file holds a model, a version or a weight type that cannot be run here."""


class BackendUnavailableError(RwkvEdgeError):
    """A backend's optional package or hardware is missing."""


class StateMismatchError(RwkvEdgeError):
    """A state belongs to another model, shape or backend."""


class InputError(RwkvEdgeError):
    """An argument is out of its range: a token id, an empty prompt, a sampling option."""


def shown(text: object) -> str:
    """Something out of a file as a message may repeat it: on one line, and not at length."""
    if not isinstance(text, str):
        # The repr of an array may take many lines, and of a long list much memory.
        return repr(text) if isinstance(text, int | float | None) else f"a {type(text).__name__}"
    start = text[:MAX_SHOWN]
    plain = start if start.isprintable() else repr(start)
    return plain if len(text) <= MAX_SHOWN else f"{plain}..."
