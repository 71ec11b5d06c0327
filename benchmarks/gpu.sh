#!/usr/bin/env bash
# Everything that needs a CUDA GPU, in under nine minutes, without network: `make gpu`, or benchmarks/gpu.sh PART…
#
# Parts: build kernels encode-adm256 encode-unet-light certify-adm256 certify-unet-light llava tests
# --rehearse   run parts on the CPU with small networks, for `make test`; wants --out
# --out DIR    where results go (default: benchmarks/results/<gpu>)
#
# PYTHON names the interpreter (default: python3); packages that it lacks are taken from wheels in .whl/, if there are
# any. A part that fails or runs out of its time does not stop the others; the failed ones are named at the end.
set -u
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
# Part → seconds that it may take; together 535.
declare -A limit=(
  [build]=55 [tests]=100 [kernels]=50 [encode-adm256]=150 [encode-unet-light]=80
  [certify-adm256]=30 [certify-unet-light]=20 [llava]=50
)
order=(build kernels encode-adm256 encode-unet-light certify-adm256 certify-unet-light llava tests)

options=() out=() parts=()
while (($#)); do
  case $1 in
    --rehearse) options+=(--rehearse) ;;
    --out) out=(--out "${2:?--out wants a folder}"); shift ;;
    *)
      if [[ -z ${limit[$1]:-} ]]; then
        echo "benchmarks/gpu.sh: wanted parts of ${order[*]}, got $1" >&2
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
    tests) timed "$1" -m pytest -m gpu -q -p no:cacheprovider tests/gpu tests/kernels ;;
    kernels) timed "$1" -m benchmarks gpu "${out[@]}" ;;
    *) timed "$1" -m benchmarks.device "$1" "${options[@]}" "${out[@]}" ;;
  esac
}

timed() {
  local part=$1
  shift
  timeout --kill-after=10 "${limit[$part]}" "$python" "$@"
}

# The C++ extension beside its sources, and packages from .whl/ beside the interpreter's own.
build() {
  if compgen -G ".whl/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --upgrade --target .whl/site .whl/*.whl || return
  fi
  timed build setup.py --quiet build_ext --inplace
}

export PYTHONPATH="$PWD/.whl/site:$PYTHONPATH"
failed=()
for part in "${parts[@]}"; do
  begin=$SECONDS
  echo "== $part"
  run "$part"
  code=$?
  ((code == 0)) || failed+=("$part (exit code $code)")
  echo "== $part: $((SECONDS - begin)) s"
done
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
echo "all parts done in $SECONDS s: ${parts[*]}"
