"""An engine as an application of Ray Serve: replicas of `fsfast serve` behind Ray's proxies.

`serve run fsfast.integrations.ray.serve:app engine=demo max_replicas=2`
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fsfast.engine.engine import load_engine
from fsfast.errors import did_you_mean
from fsfast.integrations.packages import host_package
from fsfast.integrations.ray.opening import engine_everywhere
from fsfast.integrations.ray.replica import AGREEMENT, Agreement, Replica, Settings
from fsfast.runtime.options import Options
from fsfast.serve.limits import Limits

serve = host_package("ray.serve", "ray")
ray = host_package("ray", "ray")

_LIMITS = tuple(field.name for field in fields(Limits))
_OPTIONS = tuple(field.name for field in fields(Options))
_RAY = ("min_replicas", "max_replicas", "target_ongoing_requests", "num_gpus", "retry_after", "resources")
_SETTINGS = tuple(field.name for field in fields(Settings) if field.name not in ("options", "limits"))


def deployment(
    engine: str | os.PathLike[str],
    *,
    min_replicas: int = 1,
    max_replicas: int = 1,
    target_ongoing_requests: float = 2,
    num_gpus: float = 0,
    resources: Mapping[str, float] | None = None,
    retry_after: float = 5,
    **settings: Any,
) -> Any:
    """Return an application of Ray Serve, for `serve.run`: replicas of an engine that answer as `fsfast serve` does.

    A replica fills micro-batches with the rows of all its requests, and holds as many requests of one image as fit into
    its queue of `max_rows` rows. A proxy holds as many again; what comes beyond gets 429 with Retry-After. Serve adds
    replicas while each has more than `target_ongoing_requests`.

    Args:
        engine: its directory, the same on all machines, or the name of a built-in one.
        min_replicas, max_replicas: how many there are.
        target_ongoing_requests: of a replica, waiting ones among them: one is computed while the next fills up.
        num_gpus: of a replica; say device="cuda", too.
        resources: of Ray that a replica needs, to keep replicas to one class of machines.
        retry_after: seconds that the proxies' 429 tells clients to wait; a replica's own says how long its queue is.
        settings: by name, attributes of `Settings` (num_cpus, secret_file, keys, policy, …) and of `Limits` (max_rows,
            deadline, …), and options of `SmoothedEncoder` (backend, precision, device, …).

    Raises:
        BackendUnavailable: Ray is not installed.
        EngineError: the engine cannot be read here.
        ValueError: a name is unknown, or a value off.
    """
    told = _told(engine_everywhere(engine), settings)
    n0 = load_engine(told.engine).manifest.n0
    requests = max(1, min(told.limits.max_rows // n0, told.limits.max_requests))
    wanted = {} if told.function_id is None else {"function_id": told.function_id}
    return (
        serve.deployment(serve.ingress()(Replica))
        .options(
            name=told.name,
            ray_actor_options={
                "num_cpus": told.num_cpus,
                "num_gpus": num_gpus,
                "resources": dict(resources or {}),
            },
            max_ongoing_requests=requests,
            max_queued_requests=requests,
            backpressure_config={"status_code": 429, "retry_after_s": retry_after},
            autoscaling_config={
                "min_replicas": min_replicas,
                "max_replicas": max_replicas,
                "target_ongoing_requests": target_ongoing_requests,
            },
            # A request that was accepted is answered.
            graceful_shutdown_timeout_s=told.limits.deadline + 5,
            deployment_actors=[
                {
                    "name": AGREEMENT,
                    "actor_class": ray.remote(Agreement),
                    "init_args": (wanted,),
                    "actor_options": {"num_cpus": 0},
                }
            ],
        )
        .bind(told)
    )


def app(args: dict[str, str]) -> Any:
    """Return the application that the words NAME=VALUE of `serve run` or `args` of a configuration describe.

    Args:
        args: arguments of `deployment`, values as text or as what they are; errors as there.
    """
    values = {name: _value(text) for name, text in args.items()}
    return deployment(values.pop("engine", "demo"), **values)


def _told(engine: str, given: Mapping[str, Any]) -> Settings:
    """Sort settings by what they belong to."""
    known = (*_RAY, *_SETTINGS, *_LIMITS, *_OPTIONS)
    if unknown := [name for name in given if name not in known]:
        near = did_you_mean(unknown[0], known)
        raise ValueError(f"wanted settings of {', '.join(known)}, got {unknown[0]!r}{near}")
    parts = [
        {name: given[name] for name in given if name in names} for names in (_SETTINGS, _LIMITS, _OPTIONS)
    ]
    settings, limits, options = parts
    named = {"name": os.path.basename(engine)} | settings
    return Settings(engine, **named, limits=Limits(**limits), options=options)


def _value(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text
