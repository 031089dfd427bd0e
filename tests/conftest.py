"""What holds for all tests."""

from hypothesis import settings

# No change is to fail for luck: a test's examples follow from its text. Others are looked for with
# `pytest --hypothesis-profile=search`. A deadline would measure the machine's other work.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile("repeatable")
