"""The command line: `main` parses and dispatches; each command has one module with its options and its output."""
