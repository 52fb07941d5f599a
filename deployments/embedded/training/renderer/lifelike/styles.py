"""Hair styles as ways to grow: how long, where to, how straight."""

from dataclasses import dataclass
from typing import Literal

from deployments.embedded.training.renderer.lifelike.strands import Tuft
from deployments.embedded.training.renderer.portrait import HairStyle

Flow = Literal["out", "aside", "forward", "back", "up", "tied"]


@dataclass(frozen=True)
class Style:
    """Lengths in units of the grid (70 mm)."""

    flow: Flow
    top: float
    side: float
    tuft: Tuft
    guides: int = 150
    down: float = 1.0
    bend: float = 0.12
    lift: float = 0.08
    wide: float = 1.0  # of a strand, pixels
    cropped: float = 0.0  # cover of the skin beneath by hair cut close
    tail: Literal["", "bun", "ponytail", "braids"] = ""


STRAIGHT = Tuft(16, 0.06, 0.45, wave=0.012, turns=0.6, frizz=0.002)
LOOSE = Tuft(15, 0.05, 0.8, wave=0.02, turns=0.75, frizz=0.006)
CURLS = Tuft(12, 0.035, 0.2, 0.075, 2.4, frizz=0.016, shared=0.85)
LONG_CURLS = Tuft(16, 0.05, 0.2, 0.095, 1.35, 1.0, 0.014, 0.85)
TALL = Tuft(16, 0.085, 0.3, wave=0.015, turns=1.0, frizz=0.003)
SHORT = Tuft(15, 0.05, 0.3, wave=0.012, turns=1.0, frizz=0.003)
STYLES: dict[HairStyle, Style] = {
    "bald": Style("out", 0.0, 0.0, SHORT, guides=0),
    "buzz": Style("out", 0.04, 0.03, Tuft(10, 0.06, 0.0, frizz=0.003), 150, bend=0.0, lift=0.0, cropped=0.85),
    "crew cut": Style("up", 0.17, 0.06, Tuft(14, 0.05, 0.1, frizz=0.008), 240, bend=0.03, lift=0.03, cropped=0.75),
    "receding": Style("back", 0.34, 0.2, SHORT, 230, bend=0.1, lift=0.03, cropped=0.5),
    "undercut": Style("aside", 0.85, 0.05, SHORT, 230, bend=0.14, lift=0.16, cropped=0.7),
    "parted": Style("aside", 0.7, 0.3, SHORT, 230, bend=0.22, lift=0.08, cropped=0.4),
    "quiff": Style("up", 0.5, 0.14, TALL, 250, bend=0.0, lift=0.06, cropped=0.6),
    "swept": Style("back", 0.9, 0.45, STRAIGHT, 240, bend=0.05, lift=0.12, cropped=0.3),
    "fringe": Style("forward", 0.75, 0.38, LOOSE, 220, bend=0.1, lift=0.1),
    "pixie": Style("aside", 0.95, 0.6, LOOSE, 220, bend=0.16, lift=0.1),
    "curly": Style("out", 0.95, 0.6, CURLS, 170, bend=0.14, lift=0.1),
    "short afro": Style("out", 0.34, 0.2, Tuft(16, 0.05, 0.0, 0.03, 7.0, frizz=0.02, shared=0.2), 220, bend=0.0),
    "afro": Style("out", 0.95, 0.8, Tuft(18, 0.07, 0.0, 0.04, 5.0, frizz=0.035, shared=0.2), 260, bend=0.0),
    "bun": Style("tied", 1.5, 1.3, STRAIGHT, 170, bend=0.25, lift=0.04, tail="bun"),
    "ponytail": Style("tied", 1.5, 1.3, STRAIGHT, 170, bend=0.25, lift=0.04, tail="ponytail"),
    "braids": Style("tied", 1.5, 1.3, STRAIGHT, 170, bend=0.22, lift=0.03, tail="braids"),
    "bob": Style("aside", 2.35, 1.5, STRAIGHT, 170, bend=0.3, lift=0.12),
    "side part": Style("aside", 4.0, 3.0, STRAIGHT, 180, bend=0.3, lift=0.12),
    "long": Style("aside", 4.0, 3.0, STRAIGHT, 180, bend=0.3, lift=0.09),
    "wavy": Style("aside", 3.8, 2.9, Tuft(16, 0.06, 0.5, 0.1, 0.75, 0.35, 0.004, 0.93), 180, bend=0.28, lift=0.15),
    "long curly": Style("aside", 3.5, 2.8, LONG_CURLS, 190, bend=0.24, lift=0.2),
    "locs": Style("aside", 2.8, 2.4, Tuft(24, 0.03, 0.0, 0.012, 1.5, frizz=0.004), 74, bend=0.22, lift=0.1),
}  # fmt: skip
