"""Calls the torch module of the user: its arguments, its outputs, evaluation mode, floats."""
