"""How much memory a process may take of a GPU that it shares. There is no GPU here: torch's calls are noted."""

import logging
from types import SimpleNamespace

import pytest
import ray
import torch

from deployments.common.gpu_share import CONTEXT_GB, allocator_gb, arenas_gb, assigned_share
from deployments.diffusion.model.gpu_memory import limit_gpu_memory


def test_an_allocator_has_the_share_without_what_cuda_itself_takes() -> None:
    assert allocator_gb(0.5, 48) == pytest.approx(24 - CONTEXT_GB)
    assert allocator_gb(2, 48) == pytest.approx(48 - CONTEXT_GB)  # of one of its two GPUs


def test_a_share_that_cuda_alone_fills_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a share of 0.01 of 48.0 GB"):
        allocator_gb(0.01, 48)


def test_each_session_has_an_arena_in_mebibytes() -> None:
    assert arenas_gb(2, 1000) == pytest.approx(2.097152)


@pytest.mark.ray
def test_the_share_is_what_ray_reserves_for_the_actor() -> None:
    assert assigned_share() == 1
    with ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False):
        assert assigned_share() == 1  # the program that starts actors has the machine to itself

        class Replica:
            def share(self) -> float:
                return assigned_share()

        replicas = [ray.remote(num_gpus=gpus)(Replica).remote() for gpus in (0.25, 0)]
        assert ray.get([replica.share.remote() for replica in replicas]) == [0.25, 1]


class Gpu:
    """A CUDA device as far as its limit goes; `fraction` is what was set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, memory_gb: float) -> None:
        self.fraction = 1.0
        properties = SimpleNamespace(total_memory=round(memory_gb * 1e9))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", self._set)

    def _set(self, fraction: float, device: torch.device) -> None:
        assert device == torch.device("cuda")
        self.fraction = fraction


def test_torch_keeps_within_the_share_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, memory_gb=48)
    assert limit_gpu_memory("cuda", 0.88, budget_gb=40) == pytest.approx(0.88 * 48 - CONTEXT_GB)
    assert gpu.fraction == pytest.approx(0.88 - CONTEXT_GB / 48)


def test_a_budget_that_a_smaller_gpu_does_not_have_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Gpu(monkeypatch, memory_gb=24)
    with caplog.at_level(logging.WARNING, "ray.serve"):
        limit_gpu_memory("cuda", 0.88, budget_gb=20)
        assert caplog.messages == []
        limit_gpu_memory("cuda", 0.88, budget_gb=40)
    assert "memory_gb is 40, but this replica may take 20.5 of the 24.0 GB of cuda" in caplog.messages[0]


def test_a_cpu_has_no_such_limit() -> None:
    assert limit_gpu_memory("cpu", 0.5, budget_gb=1000) is None
