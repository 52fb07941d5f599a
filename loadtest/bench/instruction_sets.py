"""The instruction sets of an x86-64 processor, as environments that limit torch to one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """`onednn` and `aten` are the names that oneDNN and torch's own kernels know it by; `flag` is Linux's."""

    name: str
    flag: str
    onednn: str
    aten: str

    @property
    def environment(self) -> Mapping[str, str]:
        """For the start of a process: oneDNN and ATen read their variable once, when they first choose a kernel."""
        return {"ONEDNN_MAX_CPU_ISA": self.onednn, "ATEN_CPU_CAPABILITY": self.aten}


BASELINE = InstructionSet("SSE4.1", "sse4_1", "SSE41", "default")
WIDER = (
    InstructionSet("AVX2", "avx2", "AVX2", "avx2"),
    InstructionSet("AVX-512", "avx512bw", "AVX512_CORE", "avx512"),
    InstructionSet("AVX-512 BF16", "avx512_bf16", "AVX512_CORE_BF16", "avx512"),
    InstructionSet("AMX", "amx_bf16", "AVX512_CORE_AMX", "avx512"),
)


def wider_sets(cpuinfo: Path = CPUINFO) -> list[InstructionSet]:
    """The sets beyond the baseline that this processor has; none without /proc/cpuinfo."""
    flags = flags_of(cpuinfo.read_text()) if cpuinfo.exists() else set()
    return [each for each in WIDER if each.flag in flags]


def flags_of(cpuinfo: str) -> set[str]:
    """Of the first core."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return next((set(flags.split()) for name, _, flags in lines if name.strip() == "flags"), set())
