"""What devices and hops were seen to take, and what follows for any stage."""
