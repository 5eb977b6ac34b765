"""Tables as HTML with a plain-text twin, and the text that charts and tables share.

Text from a model is untrusted: everything here is escaped, and characters that could hide or
reorder something are made visible.
"""

import html
import math
import unicodedata
from dataclasses import dataclass

from labkit import LabError


@dataclass
class Table:
    """A table as HTML with a plain-text twin; see `table`."""

    headings: list
    cells: list
    right: list
    """Whether each column is aligned to the right: numbers are."""
    title: str = ""

    def __str__(self):
        """The table as Markdown."""
        rows = [
            [cell.replace("\n", " ").replace("|", "\\|") for cell in row]
            for row in (self.headings, *self.cells)
        ]
        widths = [max(3, *map(width, column)) for column in zip(*rows)]
        rule = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, self.right)]

        def line(row):
            spaces = [" " * (w - width(cell)) for w, cell in zip(widths, row)]
            padded = [
                space + cell if right else cell + space
                for space, cell, right in zip(spaces, row, self.right)
            ]
            return f"| {' | '.join(padded)} |"

        return "\n".join(
            [self.title, ""] * bool(self.title) + list(map(line, [rows[0], rule, *rows[1:]]))
        )

    def _repr_mimebundle_(self, include=None, exclude=None):
        # Numbers stay whole, and a narrow column of words leaves room for one.
        words = (
            "left;vertical-align:top;white-space:pre-wrap;overflow-wrap:anywhere;min-width:6.5em"
        )
        figures = "right;vertical-align:top;white-space:nowrap"
        styles = [f"text-align:{figures if right else words}" for right in self.right]

        def row(cells, tag, attribute):
            each = zip(cells, styles)
            inner = [f'<{tag} {attribute} style="{s}">{html.escape(c)}</{tag}>' for c, s in each]
            return f"<tr>{''.join(inner)}</tr>"

        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        head = row(self.headings, "th", 'scope="col"')
        body = "".join(row(cells, "td", 'dir="auto"') for cells in self.cells)
        grid = f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"
        page = f'<div {as_text(grid)}style="overflow-x:auto">{grid}</div>'
        return {"text/html": page, "text/plain": str(self)}


def table(rows, columns=None, digits=3, title="") -> Table:
    """A tidy table from a list of dicts. columns: keys, or {key: heading}; digits: decimal places.
    Everything in it is shown as text.
    """
    if columns is None:
        columns = list(dict.fromkeys(key for row in some(rows) for key in row))
    headings = columns if isinstance(columns, dict) else {key: key for key in columns}
    right = [
        all(number(row.get(key)) is not None or row.get(key) is None for row in rows)
        for key in headings
    ]
    cells = [[written(row.get(key), digits) for key in headings] for row in rows]
    return Table([visible(str(h)) for h in headings.values()], cells, right, visible(title))


def as_text(page: str) -> str:
    """The attribute that keeps MathJax off HTML with a $ or a backslash, which a notebook's page
    would set as a formula: what a model says is text.
    """
    return 'class="tex2jax_ignore mathjax_ignore" ' if "$" in page or "\\" in page else ""


def visible(text: str, newline: str = "⏎") -> str:
    """Text with its control, direction-changing and broken characters made visible, so that it
    can't hide or reorder anything. Joiners (U+200C, U+200D) stay: Persian and emoji need them.
    """

    def mark(c):
        if "\ud800" <= c <= "\udfff":
            return "\ufffd"
        hidden = unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\u200c\u200d"
        return {"\n": newline, "\t": "⇥"}.get(c) or (f"⟨{ord(c):02X}⟩" if hidden else c)

    return "".join(map(mark, text))


def some(data):
    if not data:
        raise LabError("There is nothing to draw: the data are empty.")
    return data


def number(value):
    """A finite number, or None (a gap in a line)."""
    value = value.item() if hasattr(value, "item") else value
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if real and math.isfinite(value) else None


def written(value, digits) -> str:
    """A value as a table shows it: 1,234, 0.512, 3.0e-05, yes, – for None."""
    value = value.item() if hasattr(value, "item") else value
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if 0 < abs(value) < 10**-digits:
            return f"{value:.1e}"
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.{digits}f}"
    return visible(str(value), newline="\n")


def width(text) -> int:
    """Width in a monospaced font: CJK characters take two columns."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
