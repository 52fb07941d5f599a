"""How surely faces are found at any angle, by the search and by the cascade alone."""
