"""Files and their names, as people write them and as others get them."""
