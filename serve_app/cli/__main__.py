"""`python -m serve_app.cli` is `face-avatar`."""

from serve_app.cli.root import main

main()
