"""One file (or folder) for each notebook that needs machinery of its own; what two notebooks need
belongs in a room above.

Nothing imports a lab but its notebook and the command that makes its record.
"""
