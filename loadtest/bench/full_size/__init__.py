"""Models of full size: what a start costs, and whether they draw what diffusers draws."""
