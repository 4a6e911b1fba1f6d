"""The benchmark: methods x scenarios x seeds, one CSV with a row per run, and the statistics of that CSV."""
