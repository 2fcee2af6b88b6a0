"""A table fits any width, and no number is broken."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from table_texts import lines_of

from vqlab.cli.fit_width import Column, FittedTable, Row

TEXTS = st.text("ab_/-.1 ", min_size=1, max_size=60).map(lambda text: " ".join(text.split()) or "a")
FIGURES = st.floats(0, 1).map(lambda value: f"{value:.3f}")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, st.lists(FIGURES, min_size=9, max_size=9)), min_size=1, max_size=3),
    st.integers(40, 200),
)
def test_any_table_fits_without_broken_numbers(
    rows: list[tuple[str, list[str]]], width: int
) -> None:
    columns = [Column("name", text=True), *(Column(f"figure {n}") for n in range(9))]
    table = FittedTable("a table", columns, [Row([name, *cells]) for name, cells in rows])
    lines = lines_of(table, width)
    assert max(map(cell_len, lines)) <= width
    output = "\n".join(line for line in lines if line.startswith("│"))
    for cells in (cells for _, cells in rows):
        for cell in cells:
            assert cell in output
    if width < 80:
        assert len([line for line in lines if line.startswith("┏")]) > 1
