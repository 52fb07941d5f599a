"""The measure of light, with one person."""

import io

import pytest
from rich.console import Console

from deployments.config import WEIGHTS
from deployments.embedded.training.evaluate.figures import PALE_BLOND
from loadtest.bench.exposure import LIGHTS, Encoder, Row, measure, table


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.light: row for row in measure({"light": [PALE_BLOND]}, Encoder(WEIGHTS, threads=1))}


def test_each_light_is_measured_on_both_sides(rows: dict[str, Row]) -> None:
    assert list(rows) == [light.name for light in LIGHTS]
    good, dark = rows["good light"], rows["15% of the light"]
    assert (good.before, good.changed, good.warned) == (good.after, 0, 0)
    assert dark.after < dark.before / 2
    assert (dark.changed, dark.warned) == (1, 1)


def test_the_table_has_a_line_for_each(rows: dict[str, Row]) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(list(rows.values())))
    shown = console.export_text()
    assert all(name in shown for name in rows)
