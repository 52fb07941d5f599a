"""The networks, small enough for two CPU cores, in the formats that diffusers, ONNX Runtime and rembg load."""

import torch
from diffusers import AutoencoderTiny, EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import CLIPTextConfig, CLIPTextModel

LATENT_SCALE, LATENT_OFFSET = (
    3.25,
    -1.25,
)  # latents = rgb in 0..1 * scale + offset; both exact in half precision
LATENT_CHANNELS = 12  # 2 x 2 cells of the 64 x 64 picture, 3 colours
TEXT_WIDTH = 128
FACE_WIDTH = 512
FACE_TOKENS = 4


def build_unet() -> UNet2DConditionModel:
    """Untrained: latents (n, 12, 32, 32), conditioned on tokens of TEXT_WIDTH; every cross-attention has 4 heads."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 96, 144),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def random_adapter(unet: UNet2DConditionModel) -> dict[str, dict[str, Tensor]]:
    """An untrained IP-Adapter FaceID in its file's format: the projection, then keys and values of each layer."""
    hidden = FACE_WIDTH
    projection = nn.Sequential(nn.Linear(FACE_WIDTH, hidden), nn.GELU(), nn.Linear(hidden, TEXT_WIDTH * FACE_TOKENS))
    state = {f"proj.{key}": value.detach().clone() for key, value in projection.state_dict().items()}
    state |= {"norm.weight": torch.ones(TEXT_WIDTH), "norm.bias": torch.zeros(TEXT_WIDTH)}
    layers: dict[str, Tensor] = {}
    cross = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(cross):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for which in ("k", "v"):
            linear = getattr(attention, f"to_{which}")
            layers[f"{2 * number + 1}.to_{which}_ip.weight"] = nn.Linear(
                linear.in_features, linear.out_features, bias=False
            ).weight.detach()
    return {"image_proj": state, "ip_adapter": layers}


def adapter_state(unet: UNet2DConditionModel) -> dict[str, dict[str, Tensor]]:
    """The trained adapter of a UNet, back in the file's format."""
    state = unet.state_dict()
    renamed = {"ff.net.0.proj": "proj.0", "ff.net.2": "proj.2", "norm": "norm"}
    start = "encoder_hid_proj.image_projection_layers.0."
    projection = {}
    for key, value in state.items():
        if key.startswith(start):
            name, _, kind = key.removeprefix(start).rpartition(".")
            projection[f"{renamed[name]}.{kind}"] = value
    layers = {}
    cross = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(cross):
        for which in ("k", "v"):
            layers[f"{2 * number + 1}.to_{which}_ip.weight"] = state[f"{name}.to_{which}_ip.0.weight"]
    return {"image_proj": projection, "ip_adapter": layers}


def plain_unet_state(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """A UNet's weights without its adapter."""
    return {
        key: value
        for key, value in unet.state_dict().items()
        if not key.startswith("encoder_hid_proj.") and ".processor." not in key
    }


def build_text_encoder(vocabulary: int, start_id: int, end_id: int) -> CLIPTextModel:
    """CLIP's text model with 3 layers of TEXT_WIDTH, untrained but for `look_back`."""
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH * 4,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=TEXT_WIDTH,
            bos_token_id=start_id,
            eos_token_id=end_id,
            pad_token_id=end_id,
        )
    )
    look_back(encoder)
    return encoder


def look_back(encoder: CLIPTextModel) -> None:
    """Two heads of the first layer start out looking at the word before and the one before that.

    Which colour belongs to which noun is a matter of order, and learning that from captions alone takes thousands of
    steps: positions begin as waves, queries as the same waves turned back by one or two places.
    """
    heads, width = encoder.config.num_attention_heads, encoder.config.hidden_size
    span = width // heads
    rates = 2.0 ** -torch.linspace(0, 5, span // 2)
    angles = torch.arange(encoder.config.max_position_embeddings)[:, None] * rates
    first, embeddings = encoder.encoder.layers[0].self_attn, encoder.embeddings
    with torch.no_grad():
        embeddings.token_embedding.weight.normal_(0, 0.1)
        embeddings.token_embedding.weight[:, :span] = 0.0
        embeddings.position_embedding.weight.normal_(0, 0.01)
        embeddings.position_embedding.weight[:, :span] = 0.14 * torch.cat([angles.cos(), angles.sin()], 1)
        for head, back in enumerate((1, 2)):
            rows = slice(head * span, (head + 1) * span)
            cos, sin = torch.diag((rates * back).cos()), torch.diag((rates * back).sin())
            turn = torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)])
            first.q_proj.weight[rows] = 0.0
            first.k_proj.weight[rows] = 0.0
            first.q_proj.weight[rows, :span] = 1.6 * turn
            first.k_proj.weight[rows, :span] = 1.6 * torch.eye(span)


def build_vae() -> AutoencoderTiny:
    """The encoder is exact arithmetic: mean over 4 x 4 pixels, then 2 x 2 cells into channels. The decoder learns."""
    vae = AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(LATENT_CHANNELS,) * 4,
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(0, 0, 0, 0),
        num_decoder_blocks=(3, 3, 2, 1),
        scaling_factor=1.0,
    )
    write_closed_form(vae)
    return vae


def write_closed_form(vae: AutoencoderTiny) -> None:
    """Sets and freezes the encoder's weights, in place: it gives `closed_form_latents` of the means of 4 x 4 pixels."""
    copy, halve, halve_again, unshuffle, scale = vae.encoder.layers
    with torch.no_grad():
        for layer in (copy, halve, halve_again, unshuffle, scale):
            layer.weight.zero_()
            layer.weight.requires_grad_(False)
        copy.bias.zero_()
        for colour in range(3):
            copy.weight[colour, colour, 1, 1] = 1.0
            halve.weight[colour, colour, 1:, 1:] = 0.25
            halve_again.weight[colour, colour, 1:, 1:] = 0.25
            for row in range(2):
                for column in range(2):
                    unshuffle.weight[colour * 4 + row * 2 + column, colour, 1 + row, 1 + column] = 1.0
        for channel in range(LATENT_CHANNELS):
            scale.weight[channel, channel, 1, 1] = LATENT_SCALE
        scale.bias.fill_(LATENT_OFFSET)


def closed_form_latents(small: Tensor) -> Tensor:
    """(n, 3, 64, 64) in 0..1 -> (n, 12, 32, 32)."""
    return F.pixel_unshuffle(small, 2) * LATENT_SCALE + LATENT_OFFSET


def build_scheduler() -> EulerDiscreteScheduler:
    """Cosine schedule with a terminal signal-to-noise ratio of zero, so that a black background can be black."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def noise_levels() -> Tensor:
    """(1000,): the picture's share of the variance of noisy latents at each time step; at the last it is none."""
    alphas: Tensor = build_scheduler().alphas_cumprod.float()
    alphas[-1] = 0.0
    return alphas


class Residual(nn.Module):
    """A residual block with normalisation and ReLU before each convolution (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) -> the same shape."""
        out: Tensor = x + self.body(x)
        return out


class MattingNet(nn.Module):
    """A small U-Net: (n, 3, 320, 320), normalised as rembg does -> (n, 1, 320, 320) in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        widths = (12, 24, 40, 56, 72)
        self.down = nn.ModuleList()
        before = 3
        for width in widths:
            self.down.append(
                nn.Sequential(
                    nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                )
            )
            before = width
        self.middle = nn.Sequential(Residual(widths[-1]), Residual(widths[-1]))
        self.up = nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.up.append(
                nn.Sequential(
                    nn.Conv2d(before + width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                )
            )
            before = width
        self.last = nn.Sequential(nn.Conv2d(before + 3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 1, 3, padding=1))

    def logits(self, x: Tensor) -> Tensor:
        """(n, 1, 320, 320), before the sigmoid: the training's loss takes logits."""
        levels, out = [], x
        for down in self.down:
            out = down(out)
            levels.append(out)
        out = self.middle(out)
        for up, level in zip(self.up, reversed(levels[:-1]), strict=True):
            out = up(torch.cat([F.interpolate(out, scale_factor=2.0, mode="bilinear"), level], 1))
        full = F.interpolate(out, scale_factor=2.0, mode="bilinear")
        logits: Tensor = self.last(torch.cat([full, x], 1))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """The mask in 0..1, which is what the ONNX file gives."""
        return torch.sigmoid(self.logits(x))
