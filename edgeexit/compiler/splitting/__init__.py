"""Decides which node runs in which stage and what is kept between stages, and builds the stages."""
