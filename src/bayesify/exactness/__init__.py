"""Problems with known posteriors."""
