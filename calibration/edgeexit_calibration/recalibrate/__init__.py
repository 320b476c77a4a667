"""Watches the cohorts of a fleet, and changes their policies by what audits show."""
