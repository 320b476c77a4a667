"""Watches cohorts for drift and refits their policies."""
