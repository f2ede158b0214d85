"""Measurements, recorded in `benchmarks/results/` with the name of the hardware.

None of them is a test. Run them on an otherwise idle machine.
"""
