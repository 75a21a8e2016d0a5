"""A year of nights of one project, in about an hour: what schedules, drift, bad data and kills come to."""
