"""What a run would be worth. Symbols are those of ``ray_mixopt.surrogate``."""
