"""Methods x scenarios x seeds: jobs, the runner that fills one CSV, and what the CSV says."""
