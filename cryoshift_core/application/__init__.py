"""Classification of a user's own particles: input, spike-in validation, predictions and report."""
