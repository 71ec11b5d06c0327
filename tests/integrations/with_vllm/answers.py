"""What vLLM answers, from a process of its own: `python -m tests.integrations.with_vllm.answers JOB ANSWERS`.

JOB is a pickle of LLM's arguments and of the requests; ANSWERS becomes JSON, the tokens of each.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integrations.with_vllm.tiny_llava import IMAGE_TOKEN, NEW_TOKENS

ROOT = Path(__file__).parents[3]


def answers(folder: Path, arguments: dict[str, Any], requests: list[dict[str, Any]]) -> list[list[int]]:
    """Return the tokens of each answer."""
    job, written = folder / "job.pickle", folder / "answers.json"
    job.write_bytes(pickle.dumps((arguments, requests)))
    line = [sys.executable, "-m", "tests.integrations.with_vllm.answers", str(job), str(written)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return json.loads(written.read_text())


def main(job: str, written: str) -> None:
    from vllm import LLM, SamplingParams

    arguments, requests = pickle.loads(Path(job).read_bytes())
    llm = LLM(max_model_len=96, enforce_eager=True, max_num_seqs=4, **arguments)
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logit_bias={IMAGE_TOKEN: -100})
    # One after the other: each must find what the one before it left in the caches.
    found = [llm.generate(request, sampling)[0].outputs[0].token_ids for request in requests]
    Path(written).write_text(json.dumps([list(tokens) for tokens in found]))


if __name__ == "__main__":
    main(*sys.argv[1:])
