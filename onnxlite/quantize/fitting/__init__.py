"""What makes INT8 accurate: ranges, channels and weights fitted to the samples."""
