"""What the command line changes in a recipe: files of weights, σ, the output; and what is still missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fsfast.errors import CheckpointError
from fsfast.images.grid import Grid
from fsfast.models.averages import Weights

from . import shipped
from .engine_recipe import is_engine
from .recipe import BY_SHAPE, STAGES, ClassFiles, Recipe
from .recipe_values import MAX_BLOCKS, Store, check_name
from .results import RESULTS
from .which_weights import by_stage

# U-Nets were, or are to be, trained on images of this size; DRUNets on those of the encoder's.
PURIFIED_SIDE = 256
# Where users get a purifier, by preset; the first is the one of the paper's main results.
PURIFIERS_FROM = {
    "adm256": (
        "256x256_diffusion_uncond.pt, from the project guided-diffusion of OpenAI (github: openai/guided-diffusion), "
        "or fine-tuned by yourself",
    ),
    "unet-light": ("weights of your own training, in guided-diffusion's names; none are published",),
    "unet-tiny": ("purifier.safetensors of a run of `python -m train demo`",),
    "drunet-light": (
        f"purifier.safetensors of a run of `python -m train psm` for this sigma; --purifier {shipped.NAME} is the one "
        "that comes with fsfast",
    ),
}
MAPPER_FROM = (
    "mapper.safetensors of a training run, for this encoder and this sigma; the paper's are not published",
)
RUN_FROM = "made in a clone by `python -m train demo`, or leave training out with --random-weights"
OUTPUTS = {
    "penultimate": ("penultimate", False),
    "tokens": ("tokens", False),
    "tokens+ln_post": ("tokens", True),
    "pooled": ("pooled", True),
    "merged": ("merged", True),
}


@dataclass(frozen=True)
class Options:
    """The command line's changes; None leaves a recipe as it is.

    Attributes:
        encoder: weights file or directory.
        purifier: a file, "PRESET=FILE", "PRESET" (without weights), "none", or "photo", the one that comes with fsfast.
        mapper: a file, a number of blocks (without weights), or "none".
        output: one of OUTPUTS.
        sigma, n0: see Recipe.
        licences: "TEXT" for all stages or "STAGE=TEXT".
        random_weights: draw all weights.
        classes: files of classes.
        weights: stage, or "" for all, and which weights of its file are meant; the last word counts.
        store: see Recipe.
        name: of the engine; by default the recipe's with the networks that were added.
        card: file of Markdown that the model card ends with.
    """

    encoder: str | None = None
    purifier: str | None = None
    mapper: str | None = None
    output: str | None = None
    sigma: float | None = None
    n0: int | None = None
    licences: Sequence[str] = ()
    random_weights: bool = False
    classes: ClassFiles | None = None
    weights: Sequence[tuple[str, Weights]] = ()
    store: Store | None = None
    name: str | None = None
    card: str | None = None


@dataclass(frozen=True)
class Need:
    """Weights that a recipe wants.

    Attributes:
        stage: whose; "run" for those of a training run, which has all.
        path: where they are said to be, or None.
        option: what to write on the command line.
        places: where users get them.
    """

    stage: str
    path: Path | None
    option: str
    places: tuple[str, ...]

    @property
    def missing(self) -> bool:
        """Whether nothing is there."""
        return self.path is None or not self.path.exists()


def customise(recipe: Recipe, options: Options) -> Recipe:
    """Return the recipe with the command line's changes.

    Raises:
        ValueError: the options contradict the recipe or each other.
    """
    _check_use(recipe, options)
    _check_engine(recipe, options)
    own = recipe
    sigma = recipe.sigma if options.sigma is None else options.sigma
    files: dict[str, Path] = {}
    if options.encoder is not None:
        files["encoder"] = Path(options.encoder)
    if options.purifier is not None:
        preset, file = _purifier(options.purifier, sigma)
        recipe = replace(recipe, purifier=preset)
        files |= {"purifier": file} if file else {}
    if options.mapper is not None:
        blocks, file = _mapper(options.mapper)
        recipe = replace(recipe, mapper_blocks=blocks)
        files |= {"mapper": file} if file else {}
    recipe = replace(recipe, name=_name(recipe, options))
    check_name(recipe.name, "the recipe and what was added to it")
    if options.output is not None:
        output, ln_post = OUTPUTS[options.output]
        recipe = replace(recipe, output=output, ln_post=ln_post)
    if options.random_weights:
        if files:
            raise ValueError(
                f"wanted either --random-weights or files, got both ({next(iter(files.values()))}); with "
                "--random-weights name networks: --purifier adm256, --mapper 3"
            )
        recipe = replace(recipe, run=None, encoder_from=(), files={})
    n0 = recipe.n0 if options.n0 is None else options.n0
    if not 0 < sigma <= 4 or not 1 <= n0 <= 4096:
        raise ValueError(f"wanted sigma in (0, 4] and n0 in 1…4096, got sigma = {sigma:g}, n0 = {n0}")
    kept = {stage: path for stage, path in recipe.files.items() if getattr(options, stage) is None}
    recipe = replace(
        recipe,
        sigma=sigma,
        n0=n0,
        files=kept | files,
        licences=_licences(options.licences),
        card=None if options.card is None else Path(options.card),
        store=options.store or recipe.store,
        classes=options.classes or recipe.classes,
    )
    recipe = replace(recipe, weights=by_stage(options.weights, _from_files(recipe), recipe.weights))
    return recipe if options.purifier is None else _fitted(recipe, own, options.purifier)


def check_compare(recipe: Recipe, compare: Sequence[str]) -> None:
    """Refuse runs to compare with where the recipe is not of a run itself.

    Raises:
        ValueError: there is nothing that they could be compared with.
    """
    if compare and recipe.run is None:
        raise ValueError(
            f"wanted --compare with a recipe of a training run (demo), got it with {recipe.name}, whose weights "
            "come from elsewhere and have no results; leave it out"
        )


def needs(recipe: Recipe) -> list[Need]:
    """Return what weights a recipe wants from files, in the order of its stages; none where they are drawn."""
    if recipe.run is not None:
        return [Need("run", Path(recipe.run) / RESULTS, "", (RUN_FROM,))]
    if not recipe.encoder_from:
        return []
    preset = recipe.purifier if recipe.purifier in PURIFIERS_FROM else "adm256"
    known = {
        "purifier": (f"--purifier {preset}=FILE", PURIFIERS_FROM[preset]),
        "encoder": ("--encoder FILE_OR_DIR", recipe.encoder_from),
        "mapper": ("--mapper FILE", MAPPER_FROM),
    }
    given = {"encoder"} if recipe.outside else set()
    return [
        Need(stage, recipe.files.get(stage), *known[stage]) for stage in recipe.stages if stage not in given
    ]


def _from_files(recipe: Recipe) -> list[str]:
    """The stages whose weights come from checkpoints."""
    found = [need for need in needs(recipe) if need.stage in STAGES]
    return [need.stage for need in found if recipe.engine is None or need.path != recipe.engine]


def describe(recipe: Recipe) -> str:
    """Return what would be built and what is missing, for `--dry-run`."""
    grid = f"{recipe.grid.height}×{recipe.grid.width} ({recipe.grid.fit})"
    output = f"{recipe.output}{' after ln_post' if recipe.ln_post and recipe.output == 'tokens' else ''}"
    weights = (
        "random weights"
        if recipe.random
        else f"weights of {recipe.run}"
        if recipe.run
        else "weights from files"
    )
    stored = "" if recipe.store == "float32" else f", stored as {recipe.store}"
    lines = [
        f"{recipe.name}: sigma {recipe.sigma:g}, n0 {recipe.n0}, grid {grid}; {weights}{stored}",
        f"  purifier  {recipe.purifier or 'none'}",
        f"  encoder   {recipe.encoder}, {output}",
        f"  mapper    {_blocks(recipe)}",
        *([f"  classes   {recipe.classes.rows}, {recipe.classes.kind}"] if recipe.classes else []),
    ]
    for need in needs(recipe):
        if not need.missing:
            meant = f", {recipe.weights[need.stage]} weights" if need.stage in recipe.weights else ""
            lines.append(f"found    {need.stage}: {need.path}{meant}")
            continue
        lines.append(f"missing  {need.stage}: {need.path or 'give it with ' + need.option}")
        lines += [f"           {place}" for place in need.places]
    return "\n".join(lines)


def _blocks(recipe: Recipe) -> str:
    if recipe.mapper_blocks is None:
        return "none"
    return BY_SHAPE if "mapper" in recipe.files else f"{recipe.mapper_blocks} blocks"


def _check_use(recipe: Recipe, options: Options) -> None:
    """Refuse other networks and classes for a recipe that has its own."""
    if recipe.run and not options.random_weights and (options.classes or recipe.classes):
        raise ValueError(
            f"recipe {recipe.name} has the classes of the run {recipe.run}, got others; leave them out"
        )
    given = [name for name in (*STAGES, "output") if getattr(options, name) is not None]
    if not given or recipe.encoder_from:
        return
    own = f"the run {recipe.run}" if recipe.run else "a seed"
    raise ValueError(
        f"recipe {recipe.name} takes all weights from {own}, got --{given[0]}; choose a recipe for files, such as "
        "clip-l14, or write one (docs/engines.md)"
    )


def _check_engine(recipe: Recipe, options: Options) -> None:
    """Refuse what would change the networks of an engine that are kept."""
    if options.encoder is not None and is_engine(options.encoder):
        raise ValueError(
            f"wanted the encoder's weights, got the engine {options.encoder}, which has settings of its own; name it "
            "in the place of the recipe"
        )
    if recipe.engine is None:
        return
    for option, given in (("encoder", options.encoder), ("random-weights", options.random_weights)):
        if given:
            raise ValueError(f"{recipe.engine} is an engine and has its encoder; leave --{option} out")
    if options.output not in (None, recipe.output_name):
        raise ValueError(
            f"the encoder of {recipe.engine} has the output {recipe.output_name} alone, got --output {options.output}; "
            "leave it out, or give the recipe and the weights that the engine was made of"
        )
    for stage in ("purifier", "mapper"):
        if (
            stage in recipe.files
            and getattr(options, stage) is None
            and options.sigma not in (None, recipe.sigma)
        ):
            raise ValueError(
                f"the {stage} of {recipe.engine} is made for sigma = {recipe.sigma:g}, got --sigma {options.sigma:g}; "
                f"leave it out, or choose another --{stage}"
            )


def _purifier(text: str, sigma: float) -> tuple[str | None, Path | None]:
    if text == "none":
        return None, None
    if text == shipped.NAME:
        return shipped.PRESET, shipped.shipped_purifier(sigma)
    if text in PURIFIERS_FROM:
        return text, None
    preset, equals, file = text.partition("=")
    if equals and preset in PURIFIERS_FROM:
        return preset, Path(file)
    return BY_SHAPE, Path(text)


def _mapper(text: str) -> tuple[int | None, Path | None]:
    if text == "none":
        return None, None
    if text.isdecimal():
        if not 1 <= (blocks := int(text)) <= MAX_BLOCKS:
            raise ValueError(f"wanted --mapper none, a file, or 1…{MAX_BLOCKS} blocks, got {text}")
        return blocks, None
    # Blocks are read off the weights.
    return 0, Path(text)


def _name(recipe: Recipe, options: Options) -> str:
    """The recipe's name with the networks that were added to it."""
    added = []
    if options.purifier is not None and recipe.purifier is not None:
        added.append("purifier" if recipe.purifier == BY_SHAPE else recipe.purifier)
    if options.mapper is not None and recipe.mapper_blocks is not None:
        added.append("mapper")
    if options.name is not None:
        check_name(options.name, "--name")
        return options.name
    # An engine's name has those that it came with.
    own = recipe.name.split("+")
    return "+".join([*own, *(part for part in added if part not in own)])


def _fitted(recipe: Recipe, own: Recipe, purifier: str) -> Recipe:
    """Return the recipe with a preset that its file shows, and the grid of its purifier.

    Args:
        recipe: with the purifier.
        own: without it.
        purifier: as the command line names it.
    """
    if recipe.purifier == BY_SHAPE and _is_drunet(recipe):
        recipe = replace(recipe, purifier=shipped.PRESET)
    return replace(recipe, grid=_grid(own, recipe.purifier, purifier))


def _is_drunet(recipe: Recipe) -> bool:
    # Imported only now: torch is.
    from fsfast.models.checkpoints.networks import kind_of
    from fsfast.models.checkpoints.shards import Checkpoint

    path = in_run(recipe.files["purifier"], "purifier")
    try:
        return kind_of(Checkpoint(path, recipe.weights.get("purifier"))) == "DRUNet"
    except CheckpointError:
        # What is wrong with a file, or that there is none, is said where it is loaded.
        return False


def in_run(path: Path, stage: str) -> Path:
    """Return the file of a stage where the folder of a training run is given."""
    file = path / f"{stage}.safetensors"
    return file if path.is_dir() and file.is_file() else path


def _grid(own: Recipe, preset: str | None, purifier: str) -> Grid:
    if own.purifier is not None and purifier == shipped.NAME:
        from .networks import encoder_size

        height, width = encoder_size(own)
        return replace(own.grid, height=height, width=width)
    # A recipe that has a purifier already knows its grid.
    if preset in (None, shipped.PRESET) or own.purifier is not None:
        return own.grid
    return replace(own.grid, height=PURIFIED_SIDE, width=PURIFIED_SIDE)


def _licences(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        stage, equals, licence = text.partition("=")
        named = bool(equals) and stage in STAGES
        if not (licence if named else text).strip():
            raise ValueError(f"wanted --licence TEXT or STAGE=TEXT, got {text!r}")
        found |= {stage: licence} if named else dict.fromkeys(STAGES, text)
    return found
