"""Whether anything is lost, hangs or crashes: kills, failing writes, damaged files, signals.

python -m benchmarks.trust
"""
