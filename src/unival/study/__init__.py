"""What several stages of a study share."""
