"""Image generation by latent diffusion."""
