"""A rule that answers are held against: a cosine to be certified at a radius."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.certification import FIRST_LOOK, plan_of
from fsfast.certificates.evidence import PILOT
from fsfast.encoder import SmoothedEncoder
from fsfast.errors import did_you_mean
from fsfast.runtime.features import SmoothedFeatures

Action = Literal["flag", "refuse"]


@dataclass(frozen=True)
class Policy:
    """What is asked of every image that a model serves.

    Attributes:
        epsilon: ℓ2 radius ([0,1] units).
        min_cosine: to be certified at it.
        n_max: samples after which it abstains.
        action: "flag": the answer says whether it is certified; "refuse": an image that is not gets an error.
        alpha: probability of a wrong certificate.

    Raises:
        ValueError: a value is off.
    """

    epsilon: float
    min_cosine: float = 0.5
    n_max: int = 1000
    action: Action = "flag"
    alpha: float = 1e-3

    def __post_init__(self) -> None:
        plan_of(None, self.alpha, "mixture", self.epsilon, self.min_cosine, self.n_max, per_token=False)
        if self.action not in get_args(Action):
            raise ValueError(f"wanted action to be one of {', '.join(get_args(Action))}; got {self.action!r}")

    @property
    def rows(self) -> int:
        """The least rows that the decision about one image takes."""
        return PILOT + FIRST_LOOK

    def decide(self, encoder: SmoothedEncoder, image: object, served: SmoothedFeatures) -> Certificate:
        """Return the certificate of what was served, with samples until the rule is met, out of reach, or `n_max`."""
        certificate = encoder.certify(
            image,
            alpha=self.alpha,
            epsilon=self.epsilon,
            cosine=self.min_cosine,
            n_max=self.n_max,
            served=served,
            progress=False,
        )
        assert isinstance(certificate, Certificate)
        return certificate


def is_met(certificate: Certificate) -> bool:
    """Whether a policy's certificate reached what was asked for."""
    return reason_of(certificate) == "reached"


def reason_of(certificate: Certificate) -> str:
    """Return why the sampling of a policy's certificate stopped: "reached", "out of reach" or "n_max"."""
    assert certificate.stopping is not None
    return certificate.stopping.reason


def parse_policy(text: str) -> tuple[str, Policy]:
    """Read `[NAME:]epsilon=0.25[,min_cosine=0.5][,n_max=1000][,action=refuse][,alpha=0.001]`.

    Returns:
        The model's name, "" for all that have no rule of their own, and the rule.

    Raises:
        ValueError: it is something else.
    """
    name, _, rule = text.rpartition(":")
    readers = {"epsilon": float, "min_cosine": float, "n_max": int, "action": str, "alpha": float}
    assert list(readers) == [field.name for field in fields(Policy)]
    given: dict[str, object] = {}
    for part in rule.split(","):
        key, _, value = part.partition("=")
        if key not in readers:
            raise ValueError(
                f"wanted a rule like epsilon=0.25,min_cosine=0.5 of {', '.join(readers)}; got {part!r}"
                f"{did_you_mean(key, readers)}"
            )
        try:
            given[key] = readers[key](value)
        except ValueError:
            raise ValueError(f"wanted a number as {key}, got {value!r}") from None
    if "epsilon" not in given:
        raise ValueError(
            f"wanted a rule with epsilon, the radius at which images must be certified; got {text!r}"
        )
    return name, Policy(**given)  # type: ignore[arg-type]
