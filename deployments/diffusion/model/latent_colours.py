"""Small pictures from latents without a decoder: the colours of a cell are sums of its channels with fixed factors.

The factors of a family fit, by least squares, what its decoder makes of latents as its network knows them (of variance
1). Those of SD 1.5, SDXL and FLUX.2 are the figures that open tools share (ComfyUI's `latent_formats.py`, InvokeAI's
step previews); those of the embedded model are what `python -m deployments.embedded.training preview` prints.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from deployments.types import Pixels

MAX_SIDE = 128  # pixels of a preview's longer side


@dataclass(frozen=True, slots=True)
class LatentColours:
    """`factors` (channels, 3 n²) give n x n pixels a cell in -1..1, first those in red; `bias` is of each colour."""

    factors: tuple[tuple[float, ...], ...]
    bias: tuple[float, float, float]

    def picture(self, latents: Tensor) -> Pixels:
        """(h, w, 3) of latents (1, channels, h, w); one of more than MAX_SIDE pixels is averaged down."""
        factors = latents.new_tensor(self.factors)
        image = torch.einsum("nchw,cp->nphw", latents, factors)
        image = (
            F.pixel_shuffle(image, round((factors.shape[1] / 3) ** 0.5)) + latents.new_tensor(self.bias)[:, None, None]
        )
        height, width = image.shape[2:]
        share = MAX_SIDE / max(height, width)
        if share < 1:
            image = F.adaptive_avg_pool2d(image, (max(1, round(height * share)), max(1, round(width * share))))
        levels = ((image[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        pixels: Pixels = levels.permute(1, 2, 0).contiguous().cpu().numpy()
        return pixels


SD_1_5 = LatentColours(
    factors=(
        (0.3512, 0.2297, 0.3227),
        (0.3250, 0.4974, 0.2350),
        (-0.2829, 0.1762, 0.2721),
        (-0.2120, -0.2616, -0.7177),
    ),
    bias=(0.0, 0.0, 0.0),
)
SDXL = LatentColours(
    factors=(
        (0.3651, 0.4232, 0.4341),
        (-0.2533, -0.0042, 0.1068),
        (0.1076, 0.1111, -0.0362),
        (-0.3165, -0.2492, -0.2188),
    ),
    bias=(0.1084, -0.0175, -0.0011),
)
FLUX_2 = LatentColours(  # of the VAE's 32 channels, normalised: a token has four of its cells
    factors=(
        (0.0058, 0.0113, 0.0073),
        (0.0495, 0.0443, 0.0836),
        (-0.0099, 0.0096, 0.0644),
        (0.2144, 0.3009, 0.3652),
        (0.0166, -0.0039, -0.0054),
        (0.0157, 0.0103, -0.0160),
        (-0.0398, 0.0902, -0.0235),
        (-0.0052, 0.0095, 0.0109),
        (-0.3527, -0.2712, -0.1666),
        (-0.0301, -0.0356, -0.0180),
        (-0.0107, 0.0078, 0.0013),
        (0.0746, 0.0090, -0.0941),
        (0.0156, 0.0169, 0.0070),
        (-0.0034, -0.0040, -0.0114),
        (0.0032, 0.0181, 0.0080),
        (-0.0939, -0.0008, 0.0186),
        (0.0018, 0.0043, 0.0104),
        (0.0284, 0.0056, -0.0127),
        (-0.0024, -0.0022, -0.0030),
        (0.1207, -0.0026, 0.0065),
        (0.0128, 0.0101, 0.0142),
        (0.0137, -0.0072, -0.0007),
        (0.0095, 0.0092, -0.0059),
        (0.0000, -0.0077, -0.0049),
        (-0.0465, -0.0204, -0.0312),
        (0.0095, 0.0012, -0.0066),
        (0.0290, -0.0034, 0.0025),
        (0.0220, 0.0169, -0.0048),
        (-0.0332, -0.0457, -0.0468),
        (-0.0085, 0.0389, 0.0609),
        (-0.0076, 0.0003, -0.0043),
        (-0.0111, -0.0460, -0.0614),
    ),
    bias=(-0.0329, -0.0718, -0.0851),
)
EMBEDDED = LatentColours(  # 2 x 2 pixels a cell; explains 0.9986 of the decoded pictures' variance
    factors=(
        (0.542, 0.044, 0.042, -0.014, 0.064, -0.026, -0.029, 0.004, 0.003, -0.007, -0.005, 0.009),
        (0.039, 0.540, -0.010, 0.039, -0.038, 0.052, 0.001, -0.033, -0.006, -0.001, 0.009, -0.002),
        (0.036, -0.013, 0.533, 0.040, -0.029, 0.002, 0.058, -0.027, -0.008, 0.006, -0.001, -0.004),
        (-0.004, 0.042, 0.047, 0.548, 0.004, -0.026, -0.027, 0.057, 0.009, 0.000, -0.004, -0.003),
        (0.075, -0.038, -0.026, 0.016, 0.480, 0.052, 0.064, -0.009, 0.058, -0.038, -0.041, -0.005),
        (-0.028, 0.082, -0.002, -0.035, 0.076, 0.506, 0.000, 0.076, -0.025, 0.075, 0.007, -0.028),
        (-0.029, 0.013, 0.074, -0.036, 0.058, 0.001, 0.486, 0.062, -0.030, 0.005, 0.070, -0.029),
        (-0.015, -0.054, -0.043, 0.057, -0.004, 0.052, 0.062, 0.482, 0.001, -0.039, -0.033, 0.065),
        (-0.008, -0.002, -0.009, -0.005, 0.066, -0.020, -0.031, 0.001, 0.541, 0.057, 0.055, -0.001),
        (-0.008, -0.016, 0.009, 0.000, -0.032, 0.052, -0.004, -0.039, 0.038, 0.522, -0.017, 0.038),
        (-0.004, 0.001, -0.005, 0.002, -0.030, -0.005, 0.062, -0.026, 0.044, -0.015, 0.530, 0.040),
        (0.020, 0.017, 0.004, 0.002, -0.002, -0.025, -0.026, 0.066, -0.011, 0.048, 0.045, 0.535),
    ),
    bias=(-0.231, -0.232, -0.231),
)

OF_FAMILIES = {
    ("StableDiffusionPipeline", 4): SD_1_5,
    ("StableDiffusionXLPipeline", 4): SDXL,
    ("StableDiffusionPipeline", 12): EMBEDDED,
    ("Flux2KleinPipeline", 32): FLUX_2,
}


def colours_of(family: str, channels: int) -> LatentColours | None:
    """Those of a pipeline's class and its VAE's channels; None where they are not known."""
    return OF_FAMILIES.get((family, channels))
