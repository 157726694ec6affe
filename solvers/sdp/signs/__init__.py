"""Searches over sign vectors: rounding a factor, one-flip tabu, enumeration, branch and bound."""
