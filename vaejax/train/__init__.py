"""Training: the fit before it, the step, what is measured on the way, runs side by side."""
