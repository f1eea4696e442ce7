"""What all charts share: which rows share a panel and a colour, the axes, where the names of points stand."""
