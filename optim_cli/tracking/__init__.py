"""Where metrics go; trackers see events only."""
