"""The errors that fsfast raises on purpose; each message says what was wanted, what came, and the remedy."""


class FsfastError(Exception):
    """Base class of all errors below."""


class EngineError(FsfastError):
    """An engine cannot be trusted or used: missing, truncated, altered, too new, or malformed."""


class ImageError(FsfastError, ValueError):
    """An input is not an image that can be put on the engine's grid without guessing."""


class BackendUnavailable(FsfastError, ImportError):
    """A back end was asked for that cannot run on this machine; the message says why."""


class CertificateError(FsfastError, ValueError):
    """A certificate file is malformed, or does not belong to the engine or the image at hand."""


class CertificateAltered(CertificateError):
    """What a certificate file states does not follow from what it contains."""


class CheckpointError(FsfastError, ValueError):
    """Weights cannot be loaded: missing, damaged, not weights alone, or not those of the network at hand."""


def extension_missing(error: ImportError) -> BackendUnavailable:
    """Return the error that says why the compiled part of fsfast does not load, and the remedy."""
    return BackendUnavailable(
        f"the C++ extension of fsfast does not load ({error}); with a C++ compiler at hand run "
        "pip install --force-reinstall fsfast, or pip install -e . in the source folder"
    )
