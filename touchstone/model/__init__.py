"""Text to ids to reward: networks, templates, batches, sealed artifacts, scores."""
