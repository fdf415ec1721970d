"""From what a study found to its target's settings: `hydro transfer`."""
