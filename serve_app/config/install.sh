#!/usr/bin/env bash
# Installs Face Avatar with onnxruntime's CUDA build into a Python environment: install.sh gpu|cpu PYTHON [OPTIONS OF PIP]
# (`-e` last, for an editable one). `cpu` is for machines without a GPU, where torch may be its CPU build.
set -euo pipefail
torch=$1 python=$2
source=$(cd "$(dirname "$0")/../.." && pwd)

"$python" -m pip install "${@:3}" "${source}[gpu]"

# insightface and rembg ask for onnxruntime, which has the same files as onnxruntime-gpu: of two that are installed
# nobody knows whose files are there. So both go, and one comes back.
version=$("$python" -c "from importlib.metadata import version; print(version('onnxruntime-gpu'))")
"$python" -m pip uninstall -y onnxruntime onnxruntime-gpu
"$python" -m pip install --no-deps "onnxruntime-gpu==$version"

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
