"""Property tests: the same examples on every run, and no deadline, as torch's first call is slow."""

from hypothesis import settings

settings.register_profile("pliant", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("pliant")
