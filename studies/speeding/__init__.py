"""The rooms of `python -m studies.speed`: steps timed in interleaved rounds, peak memory of children, the report."""
