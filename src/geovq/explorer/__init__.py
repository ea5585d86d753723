"""The explorer: recorded runs in the browser, to look at before calculating.

``explored_run`` reads a run; ``projection``, ``tokens``, ``paths``, ``edits`` and ``differences`` compute what the
panels show and know nothing of browsers; each ``*_panel`` is one panel; ``app`` puts them together.
"""
