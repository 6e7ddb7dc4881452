"""What the jobs of a multirun came to: their ends, their ranking, their spread over seeds."""
