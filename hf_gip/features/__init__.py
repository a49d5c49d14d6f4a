"""Rows in, one vector per row out."""
