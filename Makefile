# Two commands: `make demo` shows the runtime at work, `make test` proves it.
PYTHON ?= python3

.PHONY: demo test test-fast test-avx2 aarch64 fuzz sanitize parity integrations vllm ray browser lint types docs wheels bench bench-avx2 load gpu gpu-carry certificates attacks engine clean

demo: .venv/installed
	.venv/bin/fsfast demo

# The CPU runtime and the charts of the page, without torch. Editable, so that Python started in this folder finds the
# kernels, too.
.venv/installed: pyproject.toml setup.py $(wildcard csrc/* csrc/loops/*)
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[cpu,plot]"
	touch $@

# Files of tests side by side on the processors, four at most: each worker makes the engines that its tests share.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
SIDE_BY_SIDE = -n $(WORKERS) --dist loadfile

# The second run executes the GPU kernels in Triton's interpreter; the first compiled them for every target.
test: .venv-dev/installed lint
	.venv-dev/bin/python -m pytest $(SIDE_BY_SIDE) -m "not triton"
	TRITON_INTERPRET=1 .venv-dev/bin/python -m pytest $(SIDE_BY_SIDE) -m triton tests/kernels

test-fast: .venv-dev/installed
	.venv-dev/bin/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not triton"

# The same tests on what most processors have: AVX2, without AVX-512, VNNI and BF16, which are hidden from all libraries.
# Needs Linux on x86-64 and cpuid_fault in /proc/cpuinfo. What torch compiled for the whole processor must not be run.
MASKED = FSFAST_CPU_MASK=avx2 TORCHINDUCTOR_CACHE_DIR=$(CURDIR)/build/inductor-avx2 LD_PRELOAD=$(CURDIR)/build/cpu_mask.so

test-avx2: .venv-dev/installed build/cpu_mask.so
	$(MASKED) .venv-dev/bin/python -m pytest $(SIDE_BY_SIDE) -m "not triton"

build/cpu_mask.so: tests/processors/cpu_mask.c
	mkdir -p build
	$(CC) -O2 -shared -fPIC $< -o $@ -ldl

# The kernels for 64-bit ARM under an emulator; Debian's g++-aarch64-linux-gnu and qemu-user.
aarch64: .venv-dev/installed
	.venv-dev/bin/python -m pytest tests/processors/test_aarch64.py

# Mutated engines, images and certificates in guarded processes; CASES of each kind, after those that the committed table
# has (benchmarks/results/fuzz/outcomes.csv, quoted in docs/SECURITY.md).
CASES ?= 700
fuzz: .venv-dev/installed
	.venv-dev/bin/python -m tests.fuzz --cases $(CASES)

# The C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer, with random and hostile arguments.
sanitize: .venv-dev/installed
	.venv-dev/bin/python -m tests.sanitize

# Networks against open_clip and transformers; installs 6 GB, since torchvision needs torch's CUDA build.
parity: .venv-parity/installed
	.venv-parity/bin/python -m pytest tests/models/test_parity*.py

.venv-parity/installed: pyproject.toml
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check -e ".[parity]"
	touch $@

# Libraries that embed the encoder, as their authors publish them: transformers, open_clip, sentence-transformers, LangChain,
# vector stores. Installs 2 GB, or 6 where torch is the CUDA build.
integrations: .venv-integrations/installed
	.venv-integrations/bin/python -m pytest tests/integrations

.venv-integrations/installed: pyproject.toml
	$(PYTHON) -m venv .venv-integrations
	.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-dev.txt -e ".[integrations]"
	.venv-integrations/bin/python tests/integrations/mend_torchvision.py
	touch $@

# vLLM's server and plugin on a CPU; installs 3.5 GB.
vllm: .venv-vllm/installed
	.venv-vllm/bin/python -m pytest tests/integrations/with_vllm

.venv-vllm/installed: pyproject.toml tests/integrations/with_vllm/install.sh
	PYTHON=$(PYTHON) tests/integrations/with_vllm/install.sh .venv-vllm
	touch $@

# Ray Serve and Ray Data on two nodes of this machine, of which one is killed; installs 1 GB.
ray: .venv-ray/installed
	.venv-ray/bin/python -m pytest tests/integrations/with_ray tests/integrations/test_ray_work.py

.venv-ray/installed: pyproject.toml
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -e ".[cpu,client,ray]" hypothesis psutil pytest
	touch $@

# The demo's page, the site and the server's page on screens of telephones and desks; Debian's chromium.
browser: .venv-dev/installed docs
	.venv-dev/bin/python -m pytest tests/report/test_browser.py tests/serve/test_pages.py

lint: .venv-dev/installed
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy
	.venv-dev/bin/lint-imports

.venv-dev/installed: pyproject.toml setup.py constraints-dev.txt $(wildcard csrc/* csrc/loops/*)
	$(PYTHON) -m venv .venv-dev
	.venv-dev/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-dev.txt -e ".[dev]"
	touch $@

# What mypy and pyright see of fsfast without torch; pyright needs node.
types: .venv-dev/installed
	.venv-dev/bin/python -m pip install --quiet --disable-pip-version-check pyright
	.venv-dev/bin/python -m pytest tests/test_types.py

# An archive of the sources, and a manylinux wheel for each of PYTHONS, into dist/; proved in fresh environments.
PYTHONS ?= $(PYTHON)
wheels: .venv-dev/installed
	.venv-dev/bin/python -m tests.release $(PYTHONS)

# The site of README, docs/ and docstrings, into build/site. A link or a reference that leads nowhere is an error.
docs: .venv-docs/installed
	.venv-docs/bin/mkdocs build --strict --quiet

.venv-docs/installed: requirements-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

# Writes benchmarks/results/<machine>/*.csv.
bench: .venv-dev/installed
	.venv-dev/bin/python -m benchmarks

bench-avx2: .venv-dev/installed build/cpu_mask.so
	$(MASKED) .venv-dev/bin/python -m benchmarks

# `fsfast serve` under load and among hostile clients, on loopback (half an hour on two cores).
load: .venv-dev/installed
	.venv-dev/bin/python -m benchmarks.load

# What needs a CUDA GPU, with the Python that has torch, in eight minutes; no network. Writes build/gpu/.
gpu:
	PYTHON=$(PYTHON) benchmarks/gpu.sh

# What a machine without network lacks, for its Python, into .whl/, which travels with the clone: packages as wheels, and
# the C++ kernels.
GPU_PYTHON ?= python3.12
gpu-carry:
	rm -rf .whl build/carry build/carried
	$(GPU_PYTHON) -m venv build/carry
	build/carry/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -d .whl \
	  -r benchmarks/gpu/carried.txt
	build/carry/bin/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --upgrade setuptools pybind11 \
	  --find-links .whl
	build/carry/bin/python setup.py --quiet build_ext --build-lib .whl/extensions --build-temp build/carry/temp

# All studies of the certificates (half an hour on two cores): benchmarks/results/certificates/, docs/certificates.png.
certificates: .venv-dev/installed
	.venv-dev/bin/python -m benchmarks.certified
	.venv-dev/bin/python -m benchmarks.pages.readme

# All attacks on the digits, and ten thousand within certified radii (nine hours of one core; both go on where they were
# stopped): benchmarks/results/attacks/, docs/attacks.md.
attacks: .venv-dev/installed
	.venv-dev/bin/python -m study results --part digits
	.venv-dev/bin/python -m study soundness --attempts 10000
	.venv-dev/bin/python -m study results --part summary
	.venv-dev/bin/python -m benchmarks.pages.readme

# Trains the built-in engine (under 90 minutes on two cores) and builds it from the run.
engine: .venv-dev/installed
	.venv-dev/bin/python -m train demo --resume
	.venv-dev/bin/python -m export demo --out fsfast/assets/engines/demo --force
	mkdir -p fsfast/assets/examples/demo
	cp runs/demo/examples/* fsfast/assets/examples/demo/

clean:
	rm -rf .venv .venv-dev .venv-docs .venv-parity .venv-integrations .venv-vllm .venv-ray build dist *.egg-info fsfast/kernels/_cpu*.so fsfast/_processor*.so
