#!/usr/bin/env bash
# Renews every lock: Python requirements with hashes, and the IDE's npm lock with integrity values.
# No address of a registry is written down: the ordinary clients use whatever the machine is configured for.
set -euo pipefail
cd "$(dirname "$0")/.."

export CUSTOM_COMPILE_COMMAND="make lock"
compile=(.venv/bin/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host)

"${compile[@]}" --output-file requirements.txt pyproject.toml
"${compile[@]}" --extra engine --constraint requirements.txt --output-file requirements-engine.txt pyproject.toml
"${compile[@]}" --extra test --extra engine --constraint requirements.txt --output-file requirements-test.txt pyproject.toml
"${compile[@]}" --output-file requirements-build.txt requirements-build.in
"${compile[@]}" --output-file requirements-ide.txt requirements-ide.in
for wanted in appliance/host/toolchains/*.in; do
  "${compile[@]}" --no-annotate --output-file "${wanted%.in}.txt" "$wanted"
done
(cd appliance/host/ide && npm install --package-lock-only --ignore-scripts --no-audit --no-fund \
  --omit-lockfile-registry-resolved)
