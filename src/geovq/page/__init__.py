"""One page per run: its pictures, scores, curves and settings, in a file that needs nothing beside it."""

from geovq.page.content import FinishedRun, html_page, page_path, write_page

__all__ = ["FinishedRun", "html_page", "page_path", "write_page"]
