"""Simulation of subtomograms: structures, optics, specimens, imaging and named scenarios."""
