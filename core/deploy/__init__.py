"""Packed networks: what they are, how they run; imports no torch."""
