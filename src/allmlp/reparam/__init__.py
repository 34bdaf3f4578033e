"""Exact weight algebra: pure functions that merge linear maps. Computed in float64, returned in the input's dtype."""
