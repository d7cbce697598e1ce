"""The one family of errors: each says what was wrong, where, and what to do."""

from __future__ import annotations


class DtirError(Exception):
    """Base of every error that dtir raises on purpose; its text is one line for the user."""


class PictureError(DtirError):
    """A picture or array that cannot be used, or a picture file that cannot be read."""


class SourceError(DtirError):
    """A camera or stream that cannot be opened, or that stopped giving frames."""


class BundleError(DtirError):
    """A bundle that is missing, changed, newer than this version, or wrongly built."""


class EngineError(DtirError):
    """An engine that is not installed, was asked for and cannot be had, or failed to run."""


class RecognizerError(EngineError):
    """A recognizer that was given to a `Pipeline` failed; what it raised is the cause."""


class DataError(DtirError):
    """A data set that cannot be trained or evaluated on."""


class ConfigurationError(DtirError):
    """A setting, option or checkpoint that does not fit."""


class TrainingError(DtirError):
    """A training run that had to stop; the last good checkpoint is kept."""


class OutputError(DtirError):
    """A result that could not be written (disk full, no permission, folder in the way)."""
