"""`AvatarIngress`: the HTTP surface."""
