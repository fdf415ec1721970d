"""Pipeline schedules as values, and what waits follow from them. Pure: no torch, no engine."""
