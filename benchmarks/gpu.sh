#!/usr/bin/env bash
# What needs a CUDA GPU, without network, in two halves of four minutes: benchmarks/gpu.sh [OPTION…] [first] [second].
#
# The parts of the halves run alone, too (benchmarks/gpu.sh smoke), and by name only: `tests` (all), those of
# unet-light, `llava`, and what waits for torch.compile: `kernels`, and `gpu-parts`, which decides whether networks get
# kernels of our own inside.
# --out DIR    where rows, tables, test reports and the log go (default: build/gpu)
# --rehearse   run on the CPU with small networks, without limits of time; wants --out
#
# PYTHON names the interpreter (default: python3); what it lacks comes from .whl/ (`make gpu-carry`). A part that fails
# or runs out of its time does not stop the others; the failed ones are named at the end, and so are those that were
# skipped for want of a package.
set -u
# Jobs have process groups of their own, and can be interrupted.
set -m
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/build/carried${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}

half_s=240
# What a part leaves of its time, those after it may take.
first=(carried smoke tests-kernels networks-4 networks-16 tests-runtime)
second=(carried digests certify-adm256 encode-adm256 served-kernels cudnn compiled-adm256)
# Part → seconds that it may take, the start of Python and torch among them. Those of a half add up to half_s.
declare -A limit=(
  [carried]=20 [smoke]=25 [tests-kernels]=45 [networks-4]=80 [networks-16]=40 [tests-runtime]=30
  [digests]=25 [certify-adm256]=30 [encode-adm256]=50 [served-kernels]=40 [cudnn]=20 [compiled-adm256]=55
  [build]=60 [tests]=140 [kernels]=200 [gpu-parts]=530 [encode-unet-light]=60 [certify-unet-light]=20 [llava]=55
)
# How long a part has to end after it is asked to; pytest waits ten seconds for its workers before it writes its report.
grace_s=4 tests_grace_s=14
# Exit code of a part that lacks a package.
skipped=77

rehearse=() folder='' asked=()
while (($#)); do
  case $1 in
    --rehearse) rehearse=(--rehearse) ;;
    --out) folder=${2:?--out wants a folder}; shift ;;
    *)
      if [[ $1 != first && $1 != second && -z ${limit[$1]:-} ]]; then
        echo "benchmarks/gpu.sh: wanted first, second or one of ${!limit[*]}, got $1" >&2
        exit 2
      fi
      asked+=("$1") ;;
  esac
  shift
done
((${#asked[@]})) || asked=(first second)
if [[ ${#rehearse[@]} -gt 0 && -z $folder ]]; then
  echo "benchmarks/gpu.sh: --rehearse wants --out: its numbers do not belong among results" >&2
  exit 2
fi
folder=${folder:-build/gpu}
mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit
exec > >(tee -a "$folder/gpu.log") 2>&1

run() {
  case $1 in
    carried) carried ;;
    build) timed "$1" setup.py --quiet build_ext --inplace ;;
    tests) tests "$1" tests/runtime/gpu $(grep -rl --include='test_*.py' 'mark\.gpu' tests) ;;
    # Tests of kernels share nothing; others share engines with those of their file.
    tests-kernels) tests "$1" tests/kernels --dist worksteal ;;
    # networks-4 and networks-16 do what the test of full size does.
    tests-runtime) tests "$1" tests/runtime/gpu --ignore tests/runtime/gpu/test_device_full_size.py -k "not compiled_networks and not compiles" ;;
    kernels) timed "$1" -m benchmarks gpu --out "$folder" ;;
    gpu-parts) timed "$1" -m benchmarks gpu-parts --out "$folder" ;;
    # Without a GPU these run in Triton's interpreter.
    served-kernels) TRITON_INTERPRET=${#rehearse[@]} study "$1" ;;
    *) study "$1" ;;
  esac
}

study() {
  timed "$1" -m benchmarks.gpu.device "$1" "${rehearse[@]}" --out "$folder"
}

# Packages from .whl/, and the C++ kernels: those that were carried, or else built here.
carried() {
  timed carried benchmarks/gpu/carried.py || return
  timed carried -c 'import fsfast._processor, fsfast.kernels._cpu' || timed build setup.py --quiet build_ext --inplace
}

# The tests' own lines say in the log what passed; the report is written at their end.
tests() {
  local part=$1 report="$folder/$1.xml"
  shift
  wants pytest xdist fastjsonschema safetensors || return
  timed "$part" -m pytest -m "gpu and not slow" -v --tb=short --durations=10 -p no:cacheprovider \
    --continue-on-collection-errors -n "$(workers)" --dist loadfile --junitxml="$report.part" "$@"
  local code=$?
  [[ ! -e $report.part ]] || mv "$report.part" "$report"
  return $code
}

workers() {
  local cores
  cores=$(nproc)
  echo $((cores < 8 ? cores : 8))
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

# Run Python for as long as a part may take. An interruption lets pytest write its report.
timed() {
  local seconds=${limit[$1]} grace=$grace_s limits=()
  [[ $1 != tests* ]] || grace=$tests_grace_s
  shift
  if ((deadline)); then
    ((seconds > due - SECONDS)) || seconds=$((due - SECONDS))
    ((seconds < deadline - SECONDS)) || seconds=$((deadline - SECONDS))
  fi
  ((seconds > grace)) || return 124
  # A rehearsal says nothing about time, and machines that rehearse are slow.
  ((${#rehearse[@]})) || limits=(timeout --signal=INT --kill-after="$grace" $((seconds - grace)))
  "${limits[@]}" "$python" "$@" &
  child=$!
  wait "$child"
  local code=$?
  child=''
  return $code
}

# When a half has to end, and when its present part ends if all take as long as they may; 0 outside of halves.
child='' deadline=0 due=0
trap '[[ -z $child ]] || kill -TERM -- "-$child"; exit 143' TERM INT

failed=() left_out=()
# Run parts one after the other.
parts() {
  local part
  for part in "$@"; do
    local begin=$SECONDS
    due=$((due + limit[$part]))
    echo "== $part"
    run "$part"
    local code=$?
    if ((code == skipped)); then
      left_out+=("$part")
    elif ((code)); then
      failed+=("$part (exit code $code)")
    fi
    echo "== $part: $((SECONDS - begin)) s"
  done
}

for what in "${asked[@]}"; do
  case $what in
    first) deadline=$((SECONDS + half_s)) due=$SECONDS; parts "${first[@]}" ;;
    second) deadline=$((SECONDS + half_s)) due=$SECONDS; parts "${second[@]}" ;;
    *) deadline=0; parts "$what" ;;
  esac
done
((${#left_out[@]} == 0)) || printf 'skipped: %s\n' "${left_out[@]}"
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
((${#left_out[@]} == 0)) && echo "all parts done in $SECONDS s: ${asked[*]}"
exit 0
