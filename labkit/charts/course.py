"""The map of the notebooks: boxes that are links, with what each notebook takes and uses.

It is HTML with an SVG inside, because a page shows image/svg+xml as a picture, which nobody can
click; and the links in it are HTML's, because JupyterLab fails on an SVG's own. Where the drawing
is taken out (a notebook that is not trusted yet), the links stay.
"""

import html
from dataclasses import dataclass

from labkit import launch
from labkit.charts.diagrams import BLUE, GREEN, GREY, PURPLE, RED, SIZE, SMALL, WIDE, Picture
from labkit.charts.look import FONT, INK, PAPER
from labkit.charts.showing import in_colab
from labkit.charts.tables import table

ROWS = (
    ("The first two stages 自督導式學習 → 督導式學習", GREY, "00 01 02"),
    ("The third 增強式學習, in games first", RED, "03 04"),
    ("RLHF: people, a virtual human, PPO, and too much of it", GREEN, "05 06 07 08"),
    ("Other sources of reward, other ways to learn", BLUE, "08b 09 10 11"),
    ("What is still open, and what came of it all", PURPLE, "12 13 14"),
)
LEFT, TOP, BOX, TALL, GAP, STEP = 14, 12, 184, 100, 12, 146  # pixels
LINK = (
    f"display:block;box-sizing:border-box;height:{TALL}px;padding:10px 12px;color:{INK};"
    f"font-size:{SMALL}px;line-height:1.35;text-decoration:none"
)


@dataclass(frozen=True)
class Course:
    """See `course`."""

    labs: tuple

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self.html(), "text/plain": str(self)}

    def __str__(self):
        rows = [
            {"notebook": f"{lab.number} {lab.title}", "takes": lab.costs, "uses": lab.after or "–"}
            for lab in self.labs
        ]
        return str(table(rows))

    def html(self) -> str:
        page, labs = Picture(TOP + STEP * len(ROWS)), {lab.number: lab for lab in self.labs}
        for row, (name, tone, numbers) in enumerate(ROWS):
            y = TOP + STEP * row
            page.words(LEFT, y + 18, name, SIZE, fill=tone, bold=True)
            for column, number in enumerate(numbers.split()):
                box(page, labs[number], LEFT + column * (BOX + GAP), y + 30, tone)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {page.tall}" role="group"'
            f' aria-label="The map of the notebooks" font-family="{html.escape(FONT)}"'
            f' style="display:block;width:100%;max-width:{WIDE}px;background:{PAPER}">\n'
            + "\n".join(page.parts)
            + "\n</svg>"
        )


def box(page, lab, x, y, tone):
    """A notebook's box, whose whole area is a link."""
    link = launch.colab(lab.page) if in_colab() else lab.page
    away = ' target="_blank"' if in_colab() else ""
    uses = f"uses {lab.after}" if lab.after else "stands alone"
    page.box(x, y, BOX, TALL, tone=tone)
    page.parts.append(
        f'<foreignObject x="{x}" y="{y}" width="{BOX}" height="{TALL}"><a href="{link}"{away}'
        f' style="{LINK}"><b>{lab.number} {lab.title}</b><br>\n{lab.costs}<br>\n{uses}</a><br>'
        "</foreignObject>"
    )


def course() -> Course:
    """The map: each notebook's minutes on two idle CPU cores, its kernel's memory at the peak, and
    the notebooks whose runs it goes on from (where you have none, those that came along).
    """
    return Course(launch.LABS)
