"""Every failure that a user can cause or meet.

A message names the file, what was found, what was wanted, and the remedy.
"""


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
