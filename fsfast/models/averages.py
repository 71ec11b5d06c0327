"""Raw weights and their average over training in one checkpoint: which is which, and which is meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fsfast.errors import CheckpointError, brief

Weights = Literal["raw", "ema"]
# Keys under which training scripts keep the state dict; `vision_encoder_state_dict` is TeCoA's, `module` DeepSpeed's.
WRAPPERS = ("state_dict", "vision_encoder_state_dict", "model_state_dict", "model", "module")
# Of DINO and of ema_pytorch, beside the teacher and `ema_model`.
_RAW = ("student", "online_model")
# In the keys of averages. DINO's teacher is the average of its student, and what its authors evaluate.
_AVERAGE = re.compile(r"(^|_)(ema|swa|averaged?|teacher)(_|$)")
# Lightning's WeightAveraging puts the average in the place of the raw weights, which it keeps here.
_MOVED = "current_model_state"
# Where torch_ema and diffusers keep a list of tensors.
_NAMELESS = "shadow_params"
# A buffer of torch's AveragedModel.
_COUNT = "n_averaged"
# The first part of a tensor's name that is no wrapper's.
_ROOT = re.compile(r"(?:(?:module|_orig_mod|model)\.)*([^.]+)\.")
_WORDS = {"raw": "raw", "ema": "averaged"}


class SeveralStateDicts(CheckpointError):
    """A checkpoint holds more than one state dict, and it is not known which is meant."""


class OtherWeights(CheckpointError):
    """A checkpoint holds raw weights alone, or averaged ones alone, and the others were asked for."""


@dataclass(frozen=True)
class Choice:
    """The state dict of a checkpoint that is read.

    Attributes:
        key: under which it stands, with dots between several; "" where nothing is around it.
        weights: which they are; raw where nothing says that they are averaged.
        beside: keys of the others.
    """

    key: str = ""
    weights: Weights = "raw"
    beside: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The key and those beside it, to be shown."""
        return tuple(map(brief, filter(None, (self.key, *self.beside))))

    def note(self) -> tuple[str, ...]:
        """Say what was chosen, where there was a choice or the weights are averaged."""
        if self.weights == "raw" and not self.beside:
            return ()
        others = self.keys[1:] if self.key else self.keys
        key = f" of {self.keys[0]}" if self.key else ""
        beside = f", not those of {' and '.join(others)}" if others else ""
        return (f"{_WORDS[self.weights]} weights{key}{beside}",)

    def within(self, outer: Choice) -> Choice:
        """Return it as a part of what stands in another."""
        weights: Weights = "ema" if "ema" in (self.weights, outer.weights) else "raw"
        key, *beside = (".".join(filter(None, (outer.key, key))) for key in (self.key, *self.beside))
        return Choice(key, weights, (*outer.beside, *beside))

    def check(self, path: Path, asked: Weights | None) -> None:
        """Refuse weights that are not those that were asked for.

        Raises:
            OtherWeights: they are the others.
        """
        if asked not in (None, self.weights):
            raise OtherWeights(
                f"{path}: wanted {_WORDS[asked]} weights, as weights={asked!r} (--weights) says, and this file has "
                f"{_WORDS[self.weights]} ones alone; leave it out, or say it of the other files alone"
            )


def check_weights(asked: object) -> None:
    """Refuse what is no choice.

    Raises:
        ValueError: neither None nor one of Weights.
    """
    if asked is not None and asked not in get_args(Weights):
        raise ValueError(f"wanted weights as {' or '.join(map(repr, get_args(Weights)))}, got {asked!r}")


def pick(found: Mapping[str, Weights | None], path: Path, asked: Weights | None) -> Choice:
    """Return the state dict that is meant.

    Args:
        found: key → which weights, None where that is not known.
        path: of the file or directory, for messages.
        asked: which weights are meant.

    Raises:
        SeveralStateDicts: there are several, and what is asked for does not tell which.
    """
    meant = {key: kind for key, kind in found.items() if asked in (None, kind)} or found
    if len(meant) == 1:
        ((key, kind),) = meant.items()
        return Choice(key, kind or "raw", tuple(other for other in found if other != key))
    kinds = list(meant.values())
    single = [kind for kind in ("ema", "raw") if kinds.count(kind) == 1 and len(set(kinds)) > 1]
    shown = " and ".join(
        f"{brief(key)} ({_WORDS[kind]})" if single and kind else brief(key) for key, kind in meant.items()
    )
    options = " or ".join(f'weights="{kind}" (--weights {kind})' for kind in single)
    remedy = f"choose with {options}" if options else "save the one that is meant alone"
    raise SeveralStateDicts(f"{path}: wanted one state dict, got {shown}; {remedy}")


def averaged(file: Path) -> bool:
    """Return whether a file's name says that its weights are averaged."""
    return _AVERAGE.search(file.stem.lower().replace("-", "_").replace(".", "_")) is not None


def descend(content: Any, path: Path, asked: Weights | None, depth: int) -> tuple[Any, Choice]:
    """Return the innermost state dict of what a training script saved, and which it is.

    Args:
        content: of the file.
        path: of the file, for messages.
        asked: which weights are meant where there are raw and averaged ones.
        depth: wrappers that are taken off at most; a pickled dictionary can contain itself.

    Raises:
        SeveralStateDicts: there are several, and what is asked for does not tell which.
        CheckpointError: averaged weights are meant, and their tensors have no names.
    """
    choice = Choice()
    for _ in range(depth):
        entries = dict(_entries(content))
        found = _known(entries)
        if not found:
            break
        inner = pick(found, path, asked)
        content, choice = entries[inner.key], inner.within(choice)
    if choice.weights == "ema" and (not isinstance(content, dict) or _NAMELESS in content):
        raise _without_names(path, choice)
    return content, choice


def part_of(
    names: Collection[str], path: Path, asked: Weights | None, outer: Choice
) -> tuple[dict[str, str], Choice]:
    """Return the names that are meant where raw and averaged weights stand in one set of names.

    Args:
        names: of all tensors.
        path: of the file, for messages.
        asked: which weights are meant.
        outer: where the tensors stand.

    Returns:
        name without the prefix that tells the two apart → name, and the choice with that prefix.

    Raises:
        SeveralStateDicts: both are there, and neither is asked for.
        CheckpointError: averaged weights are meant, and their names have lost their dots.
    """
    part, prefixes = {name: name for name in names}, _prefixes(names)
    if prefixes:
        inner = pick({_called(prefix): kind for prefix, kind in prefixes.items()}, path, asked)
        prefix = next(prefix for prefix in prefixes if _called(prefix) == inner.key)
        others = () if prefix else tuple(prefixes)[1:]
        part = {
            name.removeprefix(prefix): name
            for name in names
            if name.startswith(prefix) and not name.startswith(others)
        }
        # ema_pytorch keeps the network itself under the key of its average, too.
        both = Choice(outer.key, inner.weights, outer.beside)
        outer = Choice(inner.key if prefix else "", inner.weights, inner.beside).within(both)
        if outer.weights == "ema" and not any("." in name for name in part):
            raise _without_names(path, outer)
    if part.pop(_COUNT, None):
        outer = Choice(weights="ema").within(outer)
    return part, outer


def _without_names(path: Path, choice: Choice) -> CheckpointError:
    """The error about a list of tensors, or about names without dots, as LitEma has them: two may be one."""
    return CheckpointError(
        f"{path}: the averaged weights of {choice.keys[0]} do not say which tensor is which; copy them into the model "
        "as your training code does (copy_to), and save its state dict"
    )


def _called(prefix: str) -> str:
    return prefix.rstrip(".") or "the other tensors"


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """What may be state dicts in a dictionary, those that Lightning's callbacks keep among them."""
    if not isinstance(content, dict):
        return
    yield from ((key, value) for key, value in content.items() if isinstance(key, str) and _holds(value))
    callbacks = content.get("callbacks")
    for name, state in callbacks.items() if isinstance(callbacks, dict) else ():
        for key, value in state.items() if isinstance(state, dict) else ():
            if isinstance(key, str) and _holds(value):
                yield f"callbacks.{name}.{key}", value


def _holds(value: Any) -> bool:
    """Whether it is a dictionary, or a list of tensors."""
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(hasattr(item, "shape") for item in value)
    return isinstance(value, dict)


def _of_tensors(value: Mapping[str, Any]) -> bool:
    return len(value) > 0 and all(hasattr(item, "shape") for item in value.values())


def _known(entries: Mapping[str, Any]) -> dict[str, Weights | None]:
    """Keys of state dicts → which weights; None: their names are those of another one, and nothing says more."""
    dicts = {key: value for key, value in entries.items() if isinstance(value, dict)}
    found: dict[str, Weights | None] = dict.fromkeys(
        (key for key in (*WRAPPERS, *_RAW) if key in dicts), "raw"
    )
    if _MOVED in dicts and "state_dict" in dicts:
        found |= {"state_dict": "ema", _MOVED: "raw"}
    for key in [key for key in entries if key not in found]:
        # Lightning keeps the number alone, too.
        counted = _COUNT in dicts.get(key, ()) and len(dicts[key]) > 1
        if counted or _AVERAGE.search(key.rpartition(".")[2]):
            found[key] = "ema"
    names = [dicts[key].keys() for key in found if key in dicts and _of_tensors(dicts[key])]
    found |= dict.fromkeys(key for key in dicts if key not in found and dicts[key].keys() in names)
    return dict(sorted(found.items(), key=lambda item: item[1] != "raw"))


def _prefixes(names: Collection[str]) -> dict[str, Weights | None]:
    """Prefixes of names → which weights; empty where no name tells an average."""
    roots = {match[0]: match[1] for match in map(_ROOT.match, names) if match}
    averages = sorted(prefix for prefix, root in roots.items() if _AVERAGE.search(root))
    if not averages:
        return {}
    raw = sorted(prefix for prefix, root in roots.items() if root in _RAW)
    # Numbers that an average keeps beside its weights have no dots.
    rest = any("." in name and not name.startswith(tuple(averages)) for name in names)
    found: dict[str, Weights | None] = dict.fromkeys(raw or ([""] if rest else []), "raw")
    return found | dict.fromkeys(averages, "ema")
