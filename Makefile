# Every entry point for people who work on Croft. `make check` is what must be clean before a change is offered.
CACHE ?= /var/tmp/croft-tests
VENV  := $(CACHE)/venv
PY    := $(VENV)/bin/python

.PHONY: run test check bench audit lock release vsix pins

run: .venv/ready .croft/etc/croft.toml  ## start Croft from the checkout, in the foreground, without root
	@echo "Croft will be at https://croft.localhost:8443; \`.venv/bin/croft login-link --home .croft\` prints a way in."
	.venv/bin/croft serve --home .croft

test:                       ## set up what the tests need and run them
	./tests/run

check:                      ## lint, types, shell scripts, import directions
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	shellcheck install.sh tests/run .ci/run tests/docker/setup.sh tools/lock.sh appliance/host/distribution.sh
	$(PY) -m pytest -q tests/foundation/test_import_direction.py

bench:                      ## measure; a table, and JSON in bench/results/
	CROFT_TEST_IDE=$${CROFT_TEST_IDE:-$(CACHE)/machine/opt/croft/ide} $(PY) bench/run.py

audit:                      ## known vulnerabilities in the lock, where a source can be reached
	python3 -m venv .cache/audit
	.cache/audit/bin/pip install --quiet pip-audit
	.cache/audit/bin/python tools/audit.py

lock:                       ## renew every lock
	tools/lock.sh

release:                    ## dist/croft-VERSION.tar.gz with checksums; two builds of one commit are equal
	$(PY) -m appliance.host.release build

vsix:                       ## dist/croft-VERSION.vsix, for an editor that Croft did not start
	python3 tools/vsix.py

pins:                       ## look up image digests where the image registries can be reached
	python3 tools/pins.py

# Ports that need no root. The IDE is the one the tests made (./tests/run), or the installed one.
.croft/etc/croft.toml:
	mkdir -p $(@D)
	{ echo 'runtime = "process"'; \
	  for ide in $(CACHE)/machine/opt/croft/ide /opt/croft/ide; do \
	    if [ -d $$ide/code ]; then printf '[paths]\nide = "%s"\n' $$ide; break; fi; done; \
	  printf '[proxy]\nbind = "127.0.0.1"\nhttp_port = 8080\nhttps_port = 8443\n'; } > $@

.venv/ready: requirements.txt requirements-build.txt
	python3 -m venv .venv
	.venv/bin/pip install --quiet --require-hashes --only-binary :all: -r requirements-build.txt -r requirements.txt
	.venv/bin/pip install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	touch $@
