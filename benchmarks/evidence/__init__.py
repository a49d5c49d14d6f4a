"""The experiment behind `docs/evidence.md`; run by `benchmarks/quality.py`."""
