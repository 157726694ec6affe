"""Parts of `python -m studies.deploy`: the cell, its parity, sizes and times, the bench and its goals."""
