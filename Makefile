# make demo   all set-up, then the main job on real kernels in a private root
# make test   all set-up, then every test but those in virtual machines; test-all does it on every Python at hand
# make vm           what kmodd says, and what Debian's kernels do with it in QEMU
# make vm-campaign  the same for thousands of cases: SEED=, CASES=, KERNELS= how many, ONLY= a part of their names
# make vm-trusted   the same on a kernel that trusts the key and takes no other; builds it first, if it is not cached
# make stories   builds bcache, ceph, openvswitch, cifs and nbd from the kernel's own source, and loads them in QEMU
# make systemd-test   the package's life under a real systemd, with reboots, also in QEMU; make rpm builds the package
# make power-on   the same, and docs/power-on.md of what was to be seen
# make door   the set-up with spoilt package lists, and without a network; downloads kernels each time
# make faults   random faults on a real daemon: SEED=1 CASES=300 WORKERS=2, KIND="power cut" for one kind alone
# make power-cuts   the power is cut 200 times in the update of a kernel, and what would boot is judged: SEED=1 CUTS=200
# make lint   ruff, mypy --strict, import direction
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete

.PHONY: demo test test-all unit lint vm vm-campaign vm-trusted stories rpm systemd-test power-on door faults power-cuts dkms-truth
.PHONY: bench setup clean

setup: $(STAMP)
	@tests/ground/setup

$(STAMP): pyproject.toml
	@tests/ground/setup
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' 2>&1 | grep -v -e WARNING -e notice || true
	@$(BIN)/python -c 'import kmodd, pytest, hypothesis'
	@touch $@

demo: setup
	@$(BIN)/python tests/demo.py

# One test more than there are cores at a time, since some wait, then those that disturb others.
BESIDE := -n $(shell echo $$(($$(nproc) + 1))) --dist worksteal
ORDINARY := not vm and not booted and not dkms and not stories and not door
test: setup
	@$(BIN)/python -m pytest -q $(BESIDE) -m "$(ORDINARY) and not alone"
	@$(BIN)/python -m pytest -q -m "$(ORDINARY) and alone"

# Every Python at hand that a server may have, each in a venv of its own: EL9 has 3.9, EL10 3.12, Fedora newer ones.
TESTS ?= test
PYTHONS ?= 3.9 3.10 3.11 3.12 3.13 3.14
test-all:
	@for version in $(PYTHONS); do \
	    for python in python$$version ~/.pyenv/versions/$$version.*/bin/python; do \
	        $$python -c "" 2>/dev/null || continue; \
	        echo "== Python $$version"; \
	        $(MAKE) --no-print-directory $(TESTS) PYTHON="$$python" VENV=.venv-$$version || exit 1; \
	        break; \
	    done; \
	done

unit: setup
	@$(BIN)/python -m pytest -q $(BESIDE) --hypothesis-profile few tests/unit

lint: setup
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check --quiet .
	@$(BIN)/python -m mypy
	@$(BIN)/python -m pytest -q -k "not ruff and not mypy" tests/test_style.py

vm: setup
	@$(BIN)/python -m pytest -q -s -m "vm and not trusted and not stories" tests/vm

SEED ?= $(shell date +%s)
CASES ?= 3000
KERNELS ?= 5
vm-campaign: setup
	@KMODD_SEED="$(SEED)" KMODD_CASES="$(CASES)" KMODD_KERNELS="$(KERNELS)" KMODD_ONLY="$(ONLY)" \
	    $(BIN)/python -m pytest -q -s tests/vm/test_campaign.py

vm-trusted: setup
	@$(BIN)/python -m pytest -q -s -m trusted tests/vm

stories: setup
	@$(BIN)/python -m pytest -q -m stories tests/system tests/vm

rpm: setup
	@packaging/make-rpm dist

systemd-test: setup
	@$(BIN)/python -m pytest -q -m booted tests/booted

# Writes down what the tests of power on, update and reboot showed.
power-on: setup
	@rm -f docs/power-on.md
	@KMODD_TRANSCRIPT=docs/power-on.md $(BIN)/python -m pytest -q -m booted tests/booted

door: setup
	@$(BIN)/python -m pytest -q -m door tests/door

# FIRST=N CASES=1 repeats case N of a seed.
SEED ?= 1
CASES ?= 300
FIRST ?= 0
WORKERS ?= 2
KIND ?=
faults: setup
	@$(BIN)/python tests/faults/driver.py --seed $(SEED) --cases $(CASES) --first $(FIRST) --workers $(WORKERS) --kind "$(KIND)"

# The second run is without the boot guard, for comparison.
CUTS ?= 200
power-cuts: setup
	@$(BIN)/python tests/faults/bootcuts.py --seed $(SEED) --cases $(CUTS)
	@$(BIN)/python tests/faults/bootcuts.py --seed $(SEED) --cases $(CUTS) --unguarded

dkms-truth: setup
	@$(BIN)/python -m pytest -q -s -m dkms tests/system

bench: setup
	@$(BIN)/python bench/idle.py
	@$(BIN)/python bench/latency.py
	@$(BIN)/python bench/control.py
	@$(BIN)/python bench/verify.py
	@$(BIN)/python bench/status.py
	@$(BIN)/python bench/dkms.py
	@$(BIN)/python bench/stories.py
	@$(BIN)/python bench/server.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
