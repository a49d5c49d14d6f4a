"""Arithmetic on tensors: one paper, one file. Imports torch and nothing of the host libraries."""
