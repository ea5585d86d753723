"""Assigning codes: from the nearest codeword of each token to a search on the decoded error.

The rules ``euclidean``, ``whitened`` and ``metric`` look at each token alone and live with the quantizers
(``quantizers.nearest``, ``quantizers.metric_assignment``). The rules here look at the image: ``sequential`` in its
metric, ``search`` at its pixels.
"""
