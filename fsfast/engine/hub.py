"""Engines on the Hugging Face Hub: hf://owner/name[@revision][#digest] becomes a folder of plain files.

huggingface_hub fetches into its own cache, the engine's files alone. What it keeps there are links, which an engine
never holds, since they may lead elsewhere tomorrow. So an engine gets a folder of its own in fsfast's cache, named by
its digest: of hard links to the same bytes, or of copies where the file system has none.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from fsfast._version import __version__
from fsfast.engine.manifest import FileEntry
from fsfast.engine.seal import MANIFEST, SEAL, read_manifest
from fsfast.errors import BackendUnavailable, EngineError, brief
from fsfast.files import cache_folder, file_sha256
from fsfast.installation import pip_install_extras

SCHEME = "hf://"
_FORM = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^@#\s]+))?(#(?P<digest>[0-9a-f]{64}))?")


@dataclass(frozen=True)
class HubReference:
    """An engine on the Hub.

    Attributes:
        repo: owner/name.
        revision: a branch, tag or commit; None: the main branch.
        digest: of the engine that is wanted, as `fsfast info` prints it; None: whichever is there.
    """

    repo: str
    revision: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repo}{revision}{f'#{self.digest}' if self.digest else ''}"


def parse_reference(text: str) -> HubReference:
    """Read hf://owner/name[@revision][#digest]; raises EngineError."""
    if (found := _FORM.fullmatch(text)) is None:
        raise EngineError(
            "wanted hf://owner/name[@revision][#digest], the digest with the 64 hexadecimal digits that `fsfast info` "
            f"prints, got {text!r}"
        )
    return HubReference(**found.groupdict())


def pinned(text: str, digest: str) -> str:
    """Return a reference to the engine with this digest alone."""
    return str(replace(parse_reference(text), digest=digest))


def fetched(text: str) -> Path:
    """Return the folder of an engine on the Hub; what is missing in the caches is fetched.

    One that is pinned by its digest and was fetched before is not asked for again. One that is not pinned is said.

    Raises:
        BackendUnavailable: huggingface_hub is missing.
        EngineError: it is not there, cannot be reached, or is another one than its digest says.
    """
    reference = parse_reference(text)
    if reference.digest and (folder := _folder(reference.digest)).is_dir():
        _check_digest(reference, folder, read_manifest(folder)[1])
        return folder
    manifest = _download(reference, MANIFEST)
    at_commit = HubReference(reference.repo, manifest.parent.name)
    building = _folder(f".{secrets.token_hex(6)}.building")
    building.mkdir(parents=True)
    try:
        _place(manifest, building)
        _place(_download(at_commit, SEAL), building)
        said, digest = read_manifest(building)
        _check_digest(reference, at_commit, digest)
        if not (folder := _folder(digest)).is_dir():
            for name, entry in said.files.items():
                _place(_download(at_commit, name), building, entry)
            try:
                building.rename(folder)
            except OSError:
                # Another process may have been faster.
                if not folder.is_dir():
                    raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    if reference.digest is None:
        warnings.warn(
            f"{reference} may become another engine; this one is {replace(at_commit, digest=digest)}",
            stacklevel=2,
        )
    return folder


def _folder(name: str) -> Path:
    return cache_folder() / "hub" / name


def _check_digest(reference: HubReference, where: object, digest: str) -> None:
    if reference.digest not in (None, digest):
        raise EngineError(
            f"wanted the engine with digest {reference.digest}, {where} has {digest}; name the revision that holds the "
            "engine which you trust, or its digest"
        )


def _place(source: Path, folder: Path, entry: FileEntry | None = None) -> None:
    """Put a file that may be a link into a folder as a plain one, if it is what the manifest says."""
    real, target = source.resolve(), folder / source.name
    if entry and (real.stat().st_size != entry.bytes or file_sha256(real) != entry.sha256):
        raise EngineError(
            f"{source} is not the file that {MANIFEST} lists; push the engine again, or remove that file"
        )
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def hub_package() -> ModuleType:
    """Import huggingface_hub; raises BackendUnavailable with the command that installs it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise BackendUnavailable(
            f"engines on the Hub need huggingface_hub ({brief(error)}); install it with: {pip_install_extras('hub')}"
        ) from error
    return huggingface_hub


def _download(reference: HubReference, name: str) -> Path:
    """Return a file of a repository in the Hub's own cache."""
    hub = hub_package()
    from huggingface_hub import constants, errors

    try:
        return Path(
            hub.hf_hub_download(
                reference.repo,
                name,
                revision=reference.revision,
                library_name="fsfast",
                library_version=__version__,
            )
        )
    except errors.GatedRepoError:
        why = "access to it is restricted; ask for it on its page, then log in: hf auth login, or HF_TOKEN"
    except errors.RepositoryNotFoundError:
        why = "there is no such repository, or it is private; check the name, or log in: hf auth login, or HF_TOKEN"
    except errors.RevisionNotFoundError:
        why = "it has no such revision; name a branch, tag or commit that its page lists"
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            why = f"HF_HUB_OFFLINE is set, and {constants.HF_HUB_CACHE} has no {name} of it; fetch it online once"
        else:
            why = f"{constants.ENDPOINT} cannot be reached, and the cache has no {name} of it: {brief(error.__cause__)}"
    except errors.EntryNotFoundError:
        why = f"it has no {name}, so it holds no engine of fsfast, or not all of it; `fsfast push` writes one"
    except (OSError, ValueError) as error:
        why = brief(error)
    raise EngineError(f"{reference} cannot be fetched: {why}")
