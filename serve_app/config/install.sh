#!/usr/bin/env bash
# Installs Face Avatar with onnxruntime's CUDA build into a Python environment: install.sh gpu|cpu PYTHON [OPTIONS OF PIP]
# (`-e` last, for an editable one). `gpu` installs the files of requirements.lock and no others. `cpu` is for machines
# without a GPU, where torch is its CPU build: the same versions, for which the lock has no hash.
set -euo pipefail
torch=$1 python=$2 options=("${@:3}")
source=$(cd "$(dirname "$0")/../.." && pwd)
lock=$source/serve_app/config/requirements.lock

if [ "$torch" = gpu ]; then
    "$python" -m pip install --no-deps --require-hashes -r "$lock"
    "$python" -m pip install --no-deps --no-build-isolation "${options[@]}" "$source"
else
    versions() { sed -E '/^ +--hash/d; s/ *\\$//; /^(nvidia|cuda|triton)/d' "$lock"; }
    "$python" -m pip install -c <(versions) "${options[@]}" "${source}[gpu,heic]"
    # insightface and rembg ask for onnxruntime, which has the same files as onnxruntime-gpu: of two that are installed
    # nobody knows whose files are there. So both go, and one comes back.
    "$python" -m pip uninstall -y onnxruntime onnxruntime-gpu
    "$python" -m pip install --no-deps -r <(versions | grep '^onnxruntime-gpu==')
fi

"$python" - "$torch" <<'CHECK'
import sys

import onnxruntime
import torch

providers = onnxruntime.get_available_providers()
if "CUDAExecutionProvider" not in providers:
    sys.exit(f"onnxruntime {onnxruntime.__version__} has no CUDA, only {', '.join(providers)}")
if sys.argv[1] == "gpu" and torch.version.cuda is None:
    sys.exit(f"torch {torch.__version__} has no CUDA")
print(f"onnxruntime {onnxruntime.__version__} and torch {torch.__version__}: CUDA {torch.version.cuda}")
CHECK
