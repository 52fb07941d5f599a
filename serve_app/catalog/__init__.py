"""The catalogue: the apps, the models they need, and their licences."""
