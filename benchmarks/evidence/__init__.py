"""The experiment behind `docs/benchmarks.md`; run by `benchmarks/quality.py`."""
