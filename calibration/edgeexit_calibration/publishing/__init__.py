"""Publishes policies, heartbeats and key sets, and keeps them at the broker."""
