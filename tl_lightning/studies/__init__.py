"""What looks at many runs."""
