"""The doctor: whether joining a run makes sense here, what is poor about it, and the fix."""
