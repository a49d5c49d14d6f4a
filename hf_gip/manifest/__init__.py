"""Subsets with proof: rows, what chose them, and hashes that let anyone check it."""
