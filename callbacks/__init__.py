"""The door to `trl` and `transformers`: installed as `hf_gip.callbacks`."""
