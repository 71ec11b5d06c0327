#!/usr/bin/env bash
# Everything that needs a CUDA GPU, in under nine minutes, without network: `make gpu`, or benchmarks/gpu.sh PART…
#
# Parts: build tests kernels encode-adm256 certify-adm256 encode-unet-light certify-unet-light llava; and by name only,
# because torch.compile takes minutes: gpu-parts, which decides whether networks get kernels of our own inside
# --rehearse   run parts on the CPU with small networks, for `make test`; wants --out
# --out DIR    where results go (default: benchmarks/results/<gpu>)
#
# PYTHON names the interpreter (default: python3); packages that it lacks are taken from wheels in .whl/, if there are
# any. A part that fails or runs out of its time does not stop the others; the failed ones are named at the end, and
# so are those that were skipped for want of a package.
set -u
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
# Part → seconds that it may take; together 540.
declare -A limit=(
  [build]=45 [tests]=140 [kernels]=60 [encode-adm256]=115 [encode-unet-light]=60
  [certify-adm256]=45 [certify-unet-light]=20 [llava]=55
)
limit[gpu-parts]=530
# Exit code of a part that lacks a package.
skipped=77
order=(build tests kernels encode-adm256 certify-adm256 encode-unet-light certify-unet-light llava)

options=() out=() parts=()
while (($#)); do
  case $1 in
    --rehearse) options+=(--rehearse) ;;
    --out) out=(--out "${2:?--out wants a folder}"); shift ;;
    *)
      if [[ -z ${limit[$1]:-} ]]; then
        echo "benchmarks/gpu.sh: wanted parts of ${order[*]}, gpu-parts, got $1" >&2
        exit 2
      fi
      parts+=("$1") ;;
  esac
  shift
done
((${#parts[@]})) || parts=("${order[@]}")

run() {
  case $1 in
    build) build ;;
    tests) wants pytest fastjsonschema safetensors && tests ;;
    kernels) timed "$1" -m benchmarks gpu "${out[@]}" ;;
    gpu-parts) timed "$1" -m benchmarks gpu-parts "${out[@]}" ;;
    *) timed "$1" -m benchmarks.gpu.device "$1" "${options[@]}" "${out[@]}" ;;
  esac
}

# Files without a test for GPUs may want packages that are not there.
tests() {
  local files workers=()
  mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
  "$python" -c 'import xdist' 2>/dev/null && workers=(-n 8)
  timed tests -m pytest -m "gpu and not slow" -q --tb=short -p no:cacheprovider "${workers[@]}" tests/runtime/gpu "${files[@]}"
}

# Whether these packages are there; names the first that is not.
wants() {
  "$python" - "$@" <<'END'
import sys
from importlib.util import find_spec
for name in sys.argv[1:]:
    if find_spec(name) is None:
        print(f"No module named {name!r}", file=sys.stderr)
        sys.exit(77)
END
}

timed() {
  # An interruption lets the part write what it has.
  local limits=(timeout --signal=INT --kill-after=15 "${limit[$1]}")
  # A rehearsal says nothing about time, and machines that rehearse are slow.
  ((${#options[@]} == 0)) || limits=()
  shift
  "${limits[@]}" "$python" "$@"
}

# The C++ extension beside its sources, and packages from .whl/ beside the interpreter's own.
build() {
  if compgen -G ".whl/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --upgrade --target .whl/site .whl/*.whl || return
  fi
  timed build setup.py --quiet build_ext --inplace
}

export PYTHONPATH="$PWD/.whl/site:$PYTHONPATH"
failed=() left_out=()
for part in "${parts[@]}"; do
  begin=$SECONDS
  echo "== $part"
  run "$part"
  code=$?
  if ((code == skipped)); then
    left_out+=("$part")
  elif ((code)); then
    failed+=("$part (exit code $code)")
  fi
  echo "== $part: $((SECONDS - begin)) s"
done
((${#left_out[@]} == 0)) || printf 'skipped: %s\n' "${left_out[@]}"
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
((${#left_out[@]} == 0)) && echo "all parts done in $SECONDS s: ${parts[*]}"
exit 0
