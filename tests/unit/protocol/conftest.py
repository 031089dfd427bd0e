from hypothesis import settings

# A deadline measures the machine's other work.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
