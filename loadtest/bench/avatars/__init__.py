"""Likeness of the embedded models' avatars."""
