"""`face-avatar doctor`: checks of the machine, the files and the services."""
