"""The load: users, their requests, their number over time, and checks of the answers."""
