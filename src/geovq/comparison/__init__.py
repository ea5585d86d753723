"""The comparison of recorded runs: read, group by method, difference, and lay out as tables, figures and a page."""
