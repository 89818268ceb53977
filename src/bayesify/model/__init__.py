"""The probabilistic model."""
