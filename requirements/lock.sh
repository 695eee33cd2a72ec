#!/bin/sh
# Write cpu.lock and gpu.lock from the .in files, with the hash of every file on PyPI.
# Left out of cpu.lock: torch (see install.py); torchvision, torchaudio and torchcodec, whose
# builds on PyPI are for CUDA and do not import beside a CPU torch; and triton, which has no CPU
# backend: vLLM switches it off, and it takes 1 GB. Nothing here needs the four.
set -eu
cd "$(dirname "$0")"
lock="uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet"
omit="--no-emit-package torch --no-emit-package torchvision --no-emit-package torchaudio"
omit="$omit --no-emit-package torchcodec --no-emit-package triton"
# shellcheck disable=SC2086
$lock $omit --extra-index-url https://download.pytorch.org/whl/cpu cpu.in --output-file cpu.lock
$lock gpu.in --output-file gpu.lock
