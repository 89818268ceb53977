"""Curvature of the log likelihood in parameter space: per-example Jacobians, Gauss–Newton matrices, evidence."""
