"""The comparison: plan, execute, store, analyse, report."""
