"""Which generated images are withheld: run where the images are drawn, so that those never leave the process."""
