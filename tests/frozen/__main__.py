"""`python -m tests.frozen` writes anew what is cheap to make. Note in CHANGELOG.md what users see of the change."""

from tests.frozen.surface import FROZEN, SURFACES

for name, make in SURFACES.items():
    (FROZEN / name).write_text(make(), encoding="utf-8")
