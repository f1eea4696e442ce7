"""`paretopipe plan`: what is measured for a plan, on the devices themselves."""
