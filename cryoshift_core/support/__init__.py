"""Infrastructure without science: devices, atomic files, digests of code, provenance."""
