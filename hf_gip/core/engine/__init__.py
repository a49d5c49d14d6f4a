"""Exact greedy loops whose every pick is a rank-one update of a few numbers per row."""
