"""One file per command of `unival`: what a user types, what is printed."""
