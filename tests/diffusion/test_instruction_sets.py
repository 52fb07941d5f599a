"""What computes draws the same within its roundings under every instruction set that this processor has.

oneDNN and torch choose their kernels by what the processor can do, once a process; told to use less, they compute as
an older one would. So tests of numbers are run again in a process for each.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.bench.instruction_sets import BASELINE, WIDER, InstructionSet, flags_of, wider_sets

TESTS = Path(__file__).parent
MODULES = ("test_sampler.py", "test_batch_sharding.py", "test_layers.py", "test_diffusion_model.py")
QUICK = "embedded_folder or (each_step_equals and cosine and trailing) or single_row or quickened or never_matter"
LIMIT_S = 300  # of one process, on a busy machine


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", [BASELINE, *wider_sets()], ids=lambda each: each.name)
def test_numbers_are_the_same_within_their_roundings(instruction_set: InstructionSet) -> None:
    modules = [str(next(TESTS.rglob(name))) for name in MODULES]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", QUICK, *modules]
    environment = os.environ | instruction_set.environment
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert ran.returncode == 0, ran.stdout[-4000:]


def test_an_instruction_set_is_one_that_torch_then_uses() -> None:
    command = [sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"]
    found = subprocess.run(command, env=os.environ | BASELINE.environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "DEFAULT"


def test_a_processors_instruction_sets_are_read_from_its_flags(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512bw\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert flags_of(cpuinfo.read_text()) == {"fpu", "avx2", "avx512bw"}
    assert wider_sets(cpuinfo) == list(WIDER[:2])
    assert wider_sets(tmp_path / "none") == []
