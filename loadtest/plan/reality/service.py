"""The service that is measured: on one machine, with a denoiser that sleeps and generators that scale at once."""

from pathlib import Path

import yaml

from serve_app.launcher import CONFIG

SLEEPING = "loadtest.bench.peers.sleeping:build_app"
GENERATOR = "AvatarGenerator"
MODEL = "embedded"  # the name of its model, in whose place one sleeps
MAX_IMAGES = 200  # at once: none of these loads is refused
SCALING = {
    "min_replicas": 1,
    "max_replicas": 3,
    "target_ongoing_requests": 2,
    "metrics_interval_s": 0.2,
    "look_back_period_s": 1,
    "upscale_delay_s": 0,
    "downscale_delay_s": 10,
    "policy": {"policy_function": "serve_app.policies:RowsPolicy"},
}
"""As in production.yaml, with a delay before generators go that ends within a minute, and of few images each."""


def write_config(folder: Path) -> Path:
    """The embedded profile: only generators scale, and no stage asks for a processor that a small machine lacks."""
    config = yaml.safe_load(CONFIG.read_text())
    (application,) = config["applications"]
    application["import_path"] = SLEEPING
    application["args"]["admission"]["max_images"] = MAX_IMAGES
    for deployment in application["deployments"]:
        deployment["ray_actor_options"]["num_cpus"] = 0.01
        if deployment.pop("autoscaling_config", None) is not None:
            deployment["num_replicas"] = 1
        if deployment["name"] == GENERATOR:
            del deployment["num_replicas"]
            deployment["autoscaling_config"] = SCALING
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
