"""Problems in files: rudy graphs, SDPA sparse, quadratic programs over bits."""
