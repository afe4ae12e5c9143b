"""What is believed about each metric, and about the objective made of them.

Symbols, in this package, in ``acquisition`` and in ``strategies``; shapes are written with them:

======  =====================================================================================================
``d``   domains; inputs have ``d + 2`` columns, ``x = [w, s, t]``: shares, log size and log steps over the target's
``n``   observations of a metric
``p``   hyper-parameters of a metric's surrogate
``s``   draws of them: members of the ensemble
``k``   metrics of the objective
``c``   mixtures at the target
``a``   runs that could be bought
``q``   points of a BoTorch batch
======  =====================================================================================================
"""
