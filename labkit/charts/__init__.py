"""What notebooks show: figures, tables, and the charts that move while a run trains.

Nothing here imports torch or a stage: charts draw what `metrics.jsonl` holds. Plotly is imported
when the first figure is made.
"""

from labkit.charts.board import Dashboard, dashboard
from labkit.charts.course import course
from labkit.charts.figures import areas, bands, bars, calibration, curves, heat, histogram
from labkit.charts.forest import forest
from labkit.charts.grid import grid
from labkit.charts.progress import Live, live
from labkit.charts.showing import MIME, bundle, show
from labkit.charts.strips import strips
from labkit.charts.tables import table

__all__ = [
    "MIME",
    "Dashboard",
    "Live",
    "areas",
    "bands",
    "bars",
    "bundle",
    "calibration",
    "course",
    "curves",
    "dashboard",
    "forest",
    "grid",
    "heat",
    "histogram",
    "live",
    "show",
    "strips",
    "table",
]
