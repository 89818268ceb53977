"""How densities are evaluated fast, and what that costs."""
