"""The benchmark of the search: problems x methods x seeds on the ask/tell core, scored from outside.

``problems`` says what is searched, ``methods`` by what, ``runner`` runs one search and ``campaign`` many, ``record`` is
what is kept of each, ``scores`` and ``figures`` read the records alone. The command is ``ray-mixopt benchmark``.
"""
