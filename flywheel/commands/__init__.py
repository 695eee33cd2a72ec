"""The commands of the command line, a file for each subject; `flywheel.cli` puts them together."""
