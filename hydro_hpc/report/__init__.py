"""Reports: what the flight recorders saw as numbers, a table, a trace and a picture."""
