"""What one request may ask for, and how much may wait."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fsfast.serve.errors import RequestError, TooLarge


@dataclass(frozen=True)
class Limits:
    """Limits of a server; the options of `fsfast serve` have their names.

    Attributes:
        max_rows: rows (images × n0) that may wait per model; more are refused with 429.
        max_images: of one request.
        max_n0: samples per image.
        max_n: samples of one certificate.
        max_certificates: that are made at the same time; twice as many may wait.
        max_body_mb: of one request.
        deadline: seconds until an answer must be ready.
        certificate_deadline: the same for certificates and verifications.
        max_requests: that are under way; more are refused with 429 before their body is read.
        head_seconds: within which a connection must have sent the head of a request.
        body_seconds: within which a request's body must have come.

    Raises:
        ValueError: one of them is not positive.
    """

    max_rows: int = 4096
    max_images: int = 512
    max_n0: int = 1024
    max_n: int = 100_000
    max_certificates: int = 4
    max_body_mb: float = 64.0
    deadline: float = 30.0
    certificate_deadline: float = 600.0
    max_requests: int = 1024
    head_seconds: float = 10.0
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"wanted --{field.name.replace('_', '-')} > 0, got {value}")

    @property
    def max_body(self) -> int:
        """Bytes of one request's body."""
        return int(self.max_body_mb * 1e6)

    def check_images(self, count: int) -> None:
        """Refuse a request without images (RequestError) or with too many (TooLarge)."""
        if count < 1:
            raise RequestError("wanted at least one image, got none")
        if count > self.max_images:
            raise TooLarge(f"wanted at most {self.max_images} images in one request, got {count}; send fewer")

    def check_n0(self, n0: int) -> None:
        """Refuse more samples than this server draws for an image; raises TooLarge."""
        if n0 > self.max_n0:
            raise TooLarge(f"wanted n0 of at most {self.max_n0} here, got {n0}")

    def check_n(self, n: int) -> None:
        """Refuse more samples than this server draws for a certificate; raises TooLarge."""
        if n > self.max_n:
            raise TooLarge(f"wanted n of at most {self.max_n} here, got {n}")
