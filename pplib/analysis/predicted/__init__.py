"""What has not been measured: predictions from profiles, and where to cut by them."""
