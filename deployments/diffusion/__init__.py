"""Latent diffusion of avatars."""
