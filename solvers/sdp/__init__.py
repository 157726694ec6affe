"""Certified low-rank semidefinite programs: min <C, X>, diag X = 1, X psd, and the +-1 problems behind them."""
