"""Workers and drivers are killed at random; what is lost and repeated is counted."""
