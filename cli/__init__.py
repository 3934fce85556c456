"""The command line `hyperpq`: each command parses its arguments, calls the library and prints.

`main` holds the group of commands and turns errors into one line and an exit code. Every other file
is one command, except `options` and `output` (which commands share), `formats` (answers of a query
as text), `text` (names of files as text), `streams` (closed and broken standard streams) and
`interrupts` (Ctrl-C and other signals). Commands are imported only when they run.
"""
