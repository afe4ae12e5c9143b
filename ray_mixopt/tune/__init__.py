"""The search as a Ray Tune searcher and scheduler: what of the search imports Ray."""
