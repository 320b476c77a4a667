"""Selects, orders and standardises the exits of a model, and the companion outputs beside them."""
