"""The database: its tables and migrations, and the rows of cohorts."""
