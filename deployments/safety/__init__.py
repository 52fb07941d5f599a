"""The safety checker. Runs in the generator, so that withheld images never leave its process."""
