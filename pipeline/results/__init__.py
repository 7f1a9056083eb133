"""What is measured of a model, drawn and written, and how results compare."""
