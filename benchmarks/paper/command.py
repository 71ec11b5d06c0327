"""`python -m benchmarks paper`: the paper's tables with published weights, on the machine at hand.

Checks all files, exports engines (after training, where that is asked for), measures Tables S.8, 2 and 5 as far as they
are about features, and writes a folder of CSV files, certificates and one page. The same command goes on after an
interruption. docs/paper.md says where the files are to be had, and how long it takes.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.paper import engines, folder, work
from benchmarks.paper.attacks import part as attacks
from benchmarks.paper.certified import MICRO_BATCH, Certified
from benchmarks.paper.comparison import compare
from benchmarks.paper.counts import Count, counts
from benchmarks.paper.encodes import Encodes
from benchmarks.paper.estimate import Size, measuring_flops, training_flops
from benchmarks.paper.page import render_page
from benchmarks.paper.rehearsal import REHEARSALS, write_files
from benchmarks.paper.request import Inputs, Refused, Request, check, recipe_for
from benchmarks.paper.study import Study
from export import which_weights
from fsfast.commands.parser import Parser, Several, integer, number
from fsfast.errors import FsfastError, printable
from fsfast.files import write_whole
from fsfast.runtime.progress import beside_bars
from train.psm_setting import PsmConfig

_PROGRAM = "python -m benchmarks paper"
PAGE = "paper.html"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code: 0 done, 2 wrong use."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.out is None:
        parser.error("wanted --out, got none")
    try:
        if args.rehearse is not None:
            named = write_files(REHEARSALS[args.rehearse], _work(args) / "weights")
            args = parser.parse_args([*named, *arguments])
        request = _request(parser, args)
        inputs = check(request)
        request.out.mkdir(parents=True, exist_ok=True)
        request.work.mkdir(parents=True, exist_ok=True)
        with folder.held(request.out), warnings.catch_warnings():
            warnings.simplefilter("once")
            warnings.showwarning = lambda message, *_: _say(str(message))
            folder.begin(request, inputs)
            _study(request, inputs)
    except (FsfastError, ValueError, OSError, FloatingPointError) as error:
        lines = str(error).splitlines() if isinstance(error, Refused) else [str(error)]
        for line in lines:
            _say(line)
        return 2
    except torch.OutOfMemoryError as error:
        _say(f"{str(error).split('. ')[0]}; what is done is kept; try a smaller --micro-batch")
        return 2
    return 0


def _say(line: str) -> None:
    with beside_bars():
        print(f"{_PROGRAM}: {printable(line)}", file=sys.stderr)


def _study(request: Request, inputs: Inputs) -> None:
    for file in inputs.files:
        print(f"{file.role}: {file.name}, {file.bytes / 1e6:,.1f} MB, sha256 {file.sha256}")
    mapper = request.mapper is not None or request.train is not None
    counted = {
        preset: counts(recipe_for(request, request.sigmas[0], (preset, file), None), PsmConfig().blocks)
        for preset, file in inputs.purifiers.items()
    }
    _say_work(request, inputs, counted, mapper)
    built = dict(engines.open_all(request, inputs))
    # Tables begin without a purifier.
    built = {spec: built[spec] for spec in engines.specs(request, inputs)}
    study = Study(request, inputs, built, counted)
    encodes, certified = Encodes(study), Certified(study)

    def write_page() -> None:
        write_whole(request.out / PAGE, render_page(request.out, compare(request.out)).encode())

    write_page()
    try:
        work.run([attacks(study), *encodes.parts(), *certified.parts()], write_page)
    finally:
        # After an interruption, too.
        write_page()
    print(f"→ {request.out / PAGE}; send the folder {request.out}")


def _say_work(request: Request, inputs: Inputs, counted: dict[str, dict[str, Count]], mapper: bool) -> None:
    count, images = list(counted.values()), len(inputs.images)
    size = Size(images, request.n, len(request.sigmas), request.numbers, request.runs, request.attack_steps)
    flops = measuring_flops(size, count, mapper=mapper)
    print(f"{images} images, {flops / 1e15:,.3g} · 10¹⁵ operations to measure", flush=True)
    if request.train is not None:
        config = PsmConfig()
        each = [training_flops(c, config) for c in count]
        print(
            f"{(each[0] * len(request.sigmas) + sum(each[1:])) / 1e15:,.3g} · 10¹⁵ operations to train",
            flush=True,
        )


def _request(parser: Parser, args: argparse.Namespace) -> Request:
    missing = [name for name in ("purifier", "encoder", "images") if not getattr(args, name)]
    if missing:
        parser.error(f"wanted --{missing[0]}, got none")
    on_gpu = args.device == "cuda"
    for name in ("count", "n", "n0", "runs", "attack_steps", "mapper_steps"):
        given = getattr(args, name)
        if (least := min(given) if isinstance(given, list) else given) < 1:
            parser.error(f"wanted --{name.replace('_', '-')} of at least 1, got {least}")
    if args.purifier_steps < 0:
        parser.error(f"wanted --purifier-steps of at least 0, got {args.purifier_steps}")
    if not 0.0 < args.alpha < 1.0:
        parser.error(f"wanted --alpha in (0, 1), got {args.alpha}")
    files = [name for name in ("purifier", "encoder", "mapper") if getattr(args, name)]
    return Request(
        purifiers=tuple(args.purifier),
        encoder=args.encoder,
        mapper=args.mapper,
        images=args.images,
        count=args.count,
        recipe=args.recipe,
        sigmas=tuple(dict.fromkeys(args.sigma)),
        numbers=tuple(dict.fromkeys(args.n0)),
        n=args.n,
        alpha=args.alpha,
        runs=args.runs,
        attack_steps=args.attack_steps,
        train=args.train,
        purifier_steps=args.purifier_steps,
        mapper_steps=args.mapper_steps,
        device=args.device,
        backend=args.backend,
        precision=args.precision or ("bfloat16" if on_gpu else "float32"),
        micro_batch=args.micro_batch,
        out=args.out,
        work=_work(args),
        rehearsal=args.rehearse or "",
        weights=which_weights.by_stage(args.weights, files, {}),
    )


def _work(args: argparse.Namespace) -> Path:
    return args.work or Path(f"{args.out}-work")


def _parser() -> Parser:
    size, training = Size(), PsmConfig()
    parser = Parser(prog=_PROGRAM, description=__doc__)
    files = parser.add_argument_group("files; all but --mapper, --weights and --work are wanted")
    files.add_argument(
        "--purifier",
        type=Path,
        action="append",
        metavar="FILE",
        help="weights of adm256 (256x256_diffusion_uncond.pt) or unet-light, recognised by their shapes; once more for "
        "the other. Tables 2 and 5 are measured with the first",
    )
    files.add_argument(
        "--encoder", type=Path, metavar="FILE_OR_DIR", help="weights of the recipe's image tower"
    )
    files.add_argument(
        "--mapper", type=Path, metavar="FILE", help="weights of a smoothness mapper; none are published"
    )
    which_weights.add_arguments(files)
    files.add_argument(
        "--images", type=Path, metavar="DIR", help="pictures, such as those of ImageNet's validation set"
    )
    files.add_argument("--out", type=Path, metavar="DIR", help="folder of the results: small, to be sent")
    files.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="folder of engines and training runs: large (default: OUT-work)",
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--recipe",
        default="llava-1.5",
        help="of fsfast export (default llava-1.5, the encoder of Table S.8; clip-b16 "
        "is the one of Tables 2 and 5)",
    )
    what.add_argument(
        "--sigma", action=Several, item=number, default=[0.25, 0.5], help="noise levels (default 0.25,0.5)"
    )
    what.add_argument(
        "--n0",
        action=Several,
        item=integer,
        default=list(size.numbers),
        help="of Table S.8 (default 1,2,4,8,16)",
    )
    what.add_argument(
        "-n", "--n", type=int, default=size.n, help=f"samples per certificate (default {size.n})"
    )
    what.add_argument("--alpha", type=float, default=1e-3, help="of a certificate (default 0.001)")
    what.add_argument(
        "--count", type=int, default=size.images, help=f"images, the first by name (default {size.images})"
    )
    what.add_argument("--runs", type=int, default=size.runs, help=f"timed encodes (default {size.runs})")
    what.add_argument(
        "--attack-steps", type=int, default=size.attack_steps, help=f"per image (default {size.attack_steps})"
    )
    training_group = parser.add_argument_group("training, by Algorithm 1")
    training_group.add_argument(
        "--train",
        type=Path,
        metavar="DIR",
        help="fine-tune the purifiers and train mappers on these images first",
    )
    for stage in ("purifier", "mapper"):
        steps = getattr(training, stage).steps
        training_group.add_argument(f"--{stage}-steps", type=int, default=steps, help=f"default {steps}")
    where = parser.add_argument_group("where")
    where.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default cuda")
    where.add_argument("--backend", default="auto", help="as of fsfast encode (default auto: on a GPU torch)")
    where.add_argument("--precision", help="of the networks (default bfloat16 on a GPU, float32 on a CPU)")
    where.add_argument(
        "--micro-batch", type=int, metavar="M", help=f"of the certificates on a GPU (default {MICRO_BATCH})"
    )
    where.add_argument(
        "--rehearse",
        choices=REHEARSALS,
        help="write random weights and measure little: small networks, or those of full size",
    )
    return parser
