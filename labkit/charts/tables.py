"""Tables as HTML with a plain-text twin, and the text that charts and tables share.
 Text from a model is untrusted: everything here is escaped, and characters that could hide or
reorder something are made visible.
"""

import html
import math
import unicodedata

from labkit import LabError


class Table:
    """A list of dicts as an HTML table with a plain-text twin."""

    def __init__(self, headings, cells, right, title):
        self.headings, self.cells, self.right, self.title = headings, cells, right, title

    def __str__(self):
        """The table as Markdown."""
        rows = [
            [cell.replace("\n", " ").replace("|", "\\|") for cell in row]
            for row in (self.headings, *self.cells)
        ]
        widths = [max(3, *(width(row[i]) for row in rows)) for i in range(len(self.headings))]

        def pad(cell, i):
            space = " " * (widths[i] - width(cell))
            return space + cell if self.right[i] else cell + space

        rule = [("-" * (w - 1) + ":") if self.right[i] else "-" * w for i, w in enumerate(widths)]
        lines = [
            "| " + " | ".join(pad(cell, i) for i, cell in enumerate(row)) + " |"
            for row in (rows[0], rule, *rows[1:])
        ]
        return "\n".join([self.title, ""] * bool(self.title) + lines)

    def _repr_mimebundle_(self, include=None, exclude=None):
        style = [
            (
                "text-align:right;vertical-align:top;white-space:nowrap"
                if right  # numbers stay whole, and a narrow column of words leaves room for one
                else "text-align:left;vertical-align:top;white-space:pre-wrap;overflow-wrap:anywhere;min-width:6.5em"
            )
            for right in self.right
        ]
        head = "".join(
            f'<th scope="col" style="{s}">{html.escape(h)}</th>'
            for h, s in zip(self.headings, style)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f'<td dir="auto" style="{s}">{html.escape(c)}</td>' for c, s in zip(row, style)
            )
            + "</tr>"
            for row in self.cells
        )
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        grid = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return {"text/html": f'<div style="overflow-x:auto">{grid}</div>', "text/plain": str(self)}


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
    if hasattr(value, "item"):
        value = value.item()
    return (
        value
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )


def written(value, digits) -> str:
    if hasattr(value, "item"):
        value = value.item()
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
