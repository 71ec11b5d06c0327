"""One replica of a deployment: the application of `fsfast serve`, in a process of Ray Serve."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fsfast.integrations.packages import host_package
from fsfast.integrations.ray.opening import check_same, identity, open_encoder
from fsfast.serve.app import make_app
from fsfast.serve.errors import EngineFailed
from fsfast.serve.keys import Keys
from fsfast.serve.limits import Limits
from fsfast.serve.models import Models
from fsfast.serve.policy import parse_policy
from fsfast.serve.service import Service

serve = host_package("ray.serve", "ray")
ray = host_package("ray", "ray")

AGREEMENT = "fsfast-agreement"


@dataclass(frozen=True)
class Settings:
    """What every replica is told; it holds no secret, since Ray shows it to whoever sees the cluster.

    Attributes:
        engine: directory of the engine on every machine, or the name of a built-in one.
        name: of the model.
        options: of `SmoothedEncoder`.
        limits: of requests to one replica.
        num_cpus: processors of one replica.
        secret_file: on every machine; None: the environment's FSFAST_SECRET.
        keys: file of API keys on every machine; None: everybody may ask.
        allow_seeds: whether clients may choose seeds.
        policy: rule that every image is held against, as `fsfast serve --policy` takes it; None: none.
        function_id: that is wanted; None: whatever the first replica computes.
    """

    engine: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    num_cpus: float = 1
    secret_file: str | None = None
    keys: str | None = None
    allow_seeds: bool = False
    policy: str | None = None
    function_id: str | None = None


class Agreement:
    """What the replicas of a deployment compute: who comes first says it. An actor that Serve keeps beside them."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self._agreed = dict(wanted)

    def agree(self, offered: Mapping[str, str]) -> dict[str, str]:
        """Return what all replicas are to compute."""
        self._agreed = {**offered, **self._agreed}
        return self._agreed


class Replica:
    """A replica; it takes requests when its engine is open, warm, and the same function as that of the others."""

    def __init__(self, settings: Settings) -> None:
        opener = partial(
            open_encoder, options=settings.options, secret_file=settings.secret_file, cpus=settings.num_cpus
        )
        policies = dict([parse_policy(settings.policy)]) if settings.policy else {}
        models = Models({settings.name: settings.engine}, opener, settings.limits.max_rows, policies)
        self._keys = Keys(settings.keys, seeds=settings.allow_seeds)
        self._service = Service(models, settings.limits)

    async def __serve_build_asgi_app__(self) -> Any:
        """Open the engine, and return the application; errors as `open_encoder`, and ReplicasDiffer."""
        await self._service.start()
        await self._agree()
        return make_app(self._service, self._keys)

    async def check_health(self) -> None:
        """Tell Serve whether this replica is to be replaced.

        Raises:
            EngineFailed: the engine's thread has ended.
            ReplicasDiffer: others compute something else.
        """
        if not self._service.live:
            raise EngineFailed("the engine's thread has ended")
        # Serve makes the agreement anew where its machine was lost; then it is told again what it was.
        with suppress(ray.exceptions.RayActorError, ValueError):
            await self._agree()

    async def _agree(self) -> None:
        ours = identity(self._service.models.open[0].encoder)
        agreed = await serve.get_deployment_actor(AGREEMENT).agree.remote(ours)
        check_same(ours, agreed, "this deployment has")
