"""The load: users, what they send, how many of them when, and checks of the answers."""
