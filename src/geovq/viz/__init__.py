"""Figures: every function returns a ``matplotlib.figure.Figure``; nothing is shown or saved here.

Figures are made without pyplot, so they need no display, register nowhere and are freed like any object.
Matplotlib is imported when the first figure is drawn.
"""

from geovq.viz.codebook import codebook_figure, usage_figure
from geovq.viz.grids import image_grid, reconstruction_figure, samples_figure
from geovq.viz.spectrum import spectrum_figure

__all__ = [
    "codebook_figure",
    "image_grid",
    "reconstruction_figure",
    "samples_figure",
    "spectrum_figure",
    "usage_figure",
]
