"""Loads the model that the user names, without running code of a file that is not trusted."""
