"""The command `fisher-select`, and what the experiments' commands share: messages, errors, Ctrl-C.

Options, files and exit codes stay; what is said on the way may change.
"""
