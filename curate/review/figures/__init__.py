"""Pictures as SVG, drawn on the server: no script, no library, no file beside the page.

A figure is one `<svg role="img">` with a title, a description and CSS classes; the colours stand
in the style sheet, so that the same figure is right by day and in the dark. Its numbers come with
it as a table, for those who cannot see it and those who do not trust it. All figures are 360 units
wide and as wide as their column, so that labels can be read on a phone.

Little ink, labels at the lines instead of a legend, grid lines only where a value is read off:
Tufte, "The Visual Display of Quantitative Information" (2001).
"""

from curate.review.figures.bars import Bar, bars, sparkline
from curate.review.figures.gates import Gate, gates
from curate.review.figures.histograms import Spread, histograms
from curate.review.figures.lines import Point, Series, lines
from curate.review.figures.svg import Figure

__all__ = [
    "Bar",
    "Figure",
    "Gate",
    "Point",
    "Series",
    "Spread",
    "bars",
    "gates",
    "histograms",
    "lines",
    "sparkline",
]
