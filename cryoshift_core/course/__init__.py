"""What the notebooks of the course need: parameters, runs, figures and sliders."""
