"""Reduces a whole graph to fp16 or int8, and measures what that costs."""
