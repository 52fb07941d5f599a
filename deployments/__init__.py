"""The model stages of Face Avatar. They know nothing of HTTP, tasks or storage."""

import os

# From 1.29 on onnxruntime reports the use of models to its maker, unless it finds this when imported. Its function
# `disable_telemetry_events` comes too late. A value in the environment stands.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
