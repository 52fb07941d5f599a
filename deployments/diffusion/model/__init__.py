"""The diffusion model: its loading, its layers, and one denoising step for rows that differ."""
