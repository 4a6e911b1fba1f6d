"""Tomograms on disk and in memory: MRC and STAR files, extraction, background, missing wedge."""
