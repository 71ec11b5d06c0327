"""Serve features and certificates over the network, by HTTP and gRPC.

Speaks KServe v2 (the Open Inference Protocol), OpenAI's /v1/embeddings for images, and has certificates under
/v1/certificates. Seeds derive from the secret in --secret-file, else from FSFAST_SECRET; without both from a secret
that ends with the process.

SIGTERM ends it once all requests are answered. SIGHUP opens the engines and reads the keys and the secret anew.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from fsfast.commands.common import engine_arguments
from fsfast.errors import BackendUnavailable
from fsfast.installation import pip_install_extras

if TYPE_CHECKING:
    from fsfast.encoder import SmoothedEncoder
    from fsfast.serve.cache import Cache

logger = logging.getLogger("fsfast.serve")

_LIMITS = {
    "max_rows": "rows (images × n0) that may wait per model; more are refused with 429",
    "max_images": "images of one request",
    "max_n0": "samples per image that a client may ask for",
    "max_n": "samples per certificate that a client may ask for",
    "max_certificates": "certificates that are made at the same time",
    "max_body_mb": "megabytes of one request",
    "deadline": "seconds until features must be ready",
    "certificate_deadline": "seconds until a certificate must be ready",
    "max_requests": "requests under way; more are refused with 429 before their body is read",
    "head_seconds": "seconds within which a connection must have sent a request's head",
    "body_seconds": "seconds within which a request must have come",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "engines",
        metavar="ENGINE",
        nargs="+",
        help='directory of an engine, or "demo"; NAME=ENGINE to serve it under another name than its own',
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port of HTTP (default 8000)")
    parser.add_argument(
        "--grpc-port", metavar="PORT", type=int, help="serve by gRPC there, too (default: not)"
    )
    parser.add_argument("--ssl-certfile", metavar="FILE", help="certificate of TLS")
    parser.add_argument("--ssl-keyfile", metavar="FILE", help="key of TLS")
    parser.add_argument(
        "--ssl-ca-certs", metavar="FILE", help="certificates of those who may ask (mutual TLS)"
    )
    parser.add_argument(
        "--keys", metavar="FILE", help="who may ask, by lines NAME KEY [admin] [seeds] (default: all)"
    )
    parser.add_argument(
        "--allow-seeds",
        action="store_true",
        help="let clients choose seeds, to replay results (default: none may)",
    )
    parser.add_argument(
        "--secret-file",
        metavar="FILE",
        type=Path,
        help="secret of at least 16 bytes from which seeds derive; SIGHUP reads it anew (default: FSFAST_SECRET)",
    )
    parser.add_argument(
        "--policy",
        metavar="[NAME:]RULE",
        action="append",
        default=[],
        help="hold every image against a rule, epsilon=0.25,min_cosine=0.5,n_max=1000,action=flag (or refuse)",
    )
    parser.add_argument(
        "--audit-log",
        metavar="FILE",
        type=Path,
        help="append a JSON line about every certificate before it is handed out (default: not)",
    )
    parser.add_argument(
        "--fetch-from",
        metavar="HOST",
        action="append",
        default=[],
        help="fetch images that /v1/embeddings is given as URLs of this host (default: URLs are refused)",
    )
    parser.add_argument(
        "--memory-mb",
        metavar="MB",
        type=float,
        help="for all engines; the one unused longest is closed (default: no limit)",
    )
    parser.add_argument(
        "--drain-seconds",
        metavar="S",
        type=float,
        default=0.0,
        help="after SIGTERM, say so in /v2/health/ready for so long before the port is closed (default 0)",
    )
    _cache_arguments(parser)
    _limit_arguments(parser)
    engine_arguments(parser, positional=False)


def _cache_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "cache of features, where images come again; never of seeds that clients choose"
    )
    group.add_argument(
        "--cache-mb", metavar="MB", type=float, default=0.0, help="in memory (default 0: no cache)"
    )
    group.add_argument(
        "--cache-dir",
        metavar="DIR",
        type=Path,
        help="also in a folder of this server alone, which outlives it",
    )
    group.add_argument(
        "--cache-dir-mb", metavar="MB", type=float, default=1000.0, help="of the folder (default 1000)"
    )


def _limit_arguments(parser: argparse.ArgumentParser) -> None:
    from fsfast.serve.limits import Limits

    group = parser.add_argument_group("limits")
    for field in fields(Limits):
        kind = type(field.default)
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            metavar="N" if kind is int else "X",
            type=kind,
            default=field.default,
            help=f"{_LIMITS[field.name]} (default {field.default:g})",
        )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    try:
        from fsfast.serve.server import Options, serve
    except ImportError as error:
        raise BackendUnavailable(
            f"a server needs more packages ({error}): {pip_install_extras('cpu', 'serve')}"
        ) from None
    from fsfast.serve.audit import AuditLog
    from fsfast.serve.keys import Keys
    from fsfast.serve.limits import Limits
    from fsfast.serve.policy import parse_policy
    from fsfast.serve.remote import Remote

    engines, policies = _named(args.engines), dict(map(parse_policy, args.policy))
    if unknown := policies.keys() - {"", *engines}:
        raise ValueError(f"wanted --policy for {', '.join(engines)}, got {', '.join(sorted(unknown))}")
    options = Options(
        engines=engines,
        opener=partial(_open, args),
        limits=Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)}),
        keys=Keys(args.keys, seeds=args.allow_seeds),
        policies=policies,
        remote=Remote(args.fetch_from) if args.fetch_from else None,
        memory=None if args.memory_mb is None else int(args.memory_mb * 1e6),
        host=args.host,
        port=args.port,
        drain_seconds=args.drain_seconds,
        grpc_port=args.grpc_port,
        cache=_cache(args),
        audit=None if args.audit_log is None else AuditLog(args.audit_log),
        tls={name: getattr(args, name) for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs")},
    )
    serve(options)
    return 0


def _named(engines: list[str]) -> dict[str, str]:
    """Return name → engine; raises ValueError where two have the same name."""
    named: dict[str, str] = {}
    for text in engines:
        name, equals, engine = text.partition("=")
        if not equals:
            name, engine = _own_name(text), text
        if not name or not engine or name in named:
            raise ValueError(f"wanted engines with names of their own, got {text!r}; write NAME=ENGINE")
        named[name] = engine
    return named


def _own_name(engine: str) -> str:
    """Return the name of an engine that is not given another one: of its directory, or of its repository."""
    from fsfast.engine.hub import SCHEME, parse_reference

    if engine.startswith(SCHEME):
        return parse_reference(engine).repo.partition("/")[2]
    return os.path.basename(os.path.abspath(engine))


def _cache(args: argparse.Namespace) -> Cache | None:
    """Return the cache that is asked for, or None."""
    from fsfast.serve.cache import Cache

    if args.cache_mb < 0 or not args.cache_dir_mb > 0:
        raise ValueError(f"wanted caches of some MB, got {args.cache_mb:g} and {args.cache_dir_mb:g}")
    if not args.cache_mb and args.cache_dir is None:
        return None
    return Cache(int(args.cache_mb * 1e6), args.cache_dir, int(args.cache_dir_mb * 1e6))


def _secret(file: Path | None) -> bytes:
    """Return the secret that a file holds now, without the ends of its lines; else the environment's or a new one.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is empty.
    """
    if file is None:
        return _environments_secret()
    if secret := file.read_bytes().rstrip(b"\r\n"):
        return secret
    raise ValueError(f"wanted a secret of at least 16 bytes in {file}, which is empty: openssl rand -hex 32")


@cache
def _environments_secret() -> bytes:
    """Return the secret of the environment, or a new one for all engines of this process."""
    if given := os.fsencode(os.environ.get("FSFAST_SECRET", "")):
        return given
    logger.warning(
        "neither --secret-file nor FSFAST_SECRET is given: seeds derive from a secret that ends with this process"
    )
    return secrets.token_bytes(32)


def _open(args: argparse.Namespace, engine: str) -> SmoothedEncoder:
    from fsfast.encoder import SmoothedEncoder

    return SmoothedEncoder(
        engine,
        device=args.device,
        backend=args.backend,
        precision=args.precision,
        threads=args.threads,
        micro_batch=args.micro_batch,
        graph_threads=args.graph_threads,
        stages=args.stages,
        secret=_secret(args.secret_file),
    )
