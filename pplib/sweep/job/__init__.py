"""The whole job: a grid's configurations one after the other, locked, told of and closed."""
